/** The example images of a version: to try, and to find those that look like another picture. */

import { embed, getJson, send, versionPath } from "./api.js";
import { element } from "./dom.js";

const NEIGHBOURS = 3;

export class Examples {
  #target = null;
  #images = null; // a promise of the examples: name, purpose, label and a promise of the Blob
  #embeddings = null; // a promise of their embeddings, which are asked for once per version

  /** @param {(image: Blob, name: string) => void} open - Called with the example that is chosen. */
  constructor(open) {
    this.open = open;
    this.list = element("ul", { class: "examples" });
    this.box = element(
      "div", { class: "examples-box card", hidden: true },
      element("h2", { class: "small-title" }, "Or try an example"), this.list,
    );
  }

  /** Show the examples of a model and version. */
  async use(target) {
    this.#target = target;
    this.#embeddings = null;
    this.#images = this.#load(`${versionPath(target)}/examples`);
    const images = await this.#images;
    if (this.#target !== target) return;
    this.box.hidden = images.length === 0;
    this.list.replaceChildren(...images.map((each) => {
      const { name, purpose } = each;
      return element("li", {}, this.#button(each, purpose ? `${name}: ${purpose}` : name));
    }));
  }

  async #load(path) {
    const { examples } = await getJson(path).catch(() => ({ examples: [] }));
    return examples.map((each) => {
      const blob = send(`${path}/${each.index}`).then((response) => response.blob());
      blob.catch(() => {}); // an example that cannot be read is not shown
      return { ...each, blob };
    });
  }

  /**
   * The examples that look most like a picture.
   * @param {number[]} embedding - That of the picture.
   * @returns {Promise<HTMLElement?>} A list, or null if there is nothing to compare with.
   */
  async renderNearest(embedding) {
    const target = this.#target;
    const images = await this.#images;
    this.#embeddings ??= Promise.all(images.map(({ blob }) =>
      blob.then((image) => embed(target, image)).catch(() => null)));
    const embeddings = await this.#embeddings;
    if (this.#target !== target) return null; // another version has been chosen meanwhile
    const nearest = images
      .map((image, place) => ({ image, other: embeddings[place] }))
      .filter(({ other }) => other)
      .map(({ image, other }) => ({ image, distance: distance(embedding, other) }))
      .sort((a, b) => a.distance - b.distance)
      .slice(0, NEIGHBOURS);
    if (!nearest.length) return null;
    return element(
      "section", { class: "nearest", "aria-label": "Looks like" },
      element("h2", { class: "small-title" }, "Looks like"),
      element("ol", {}, nearest.map(({ image, distance: far }) => {
        const apart = `distance ${far.toFixed(2)}`;
        return element(
          "li", { "data-name": image.name },
          this.#button(image, `${image.name}: ${image.label}, ${apart}`),
          element("span", { "aria-hidden": "true" }, image.name,
            element("span", { class: "muted small" }, image.label, element("br"), apart)),
        );
      })),
      element("p", { class: "muted small" },
        "The most similar examples, with the labels that the model gives them. ",
        "0 is the same picture, 1 has nothing in common."),
    );
  }

  #button({ name, blob }, label) {
    const image = element("img", { alt: "", loading: "lazy" });
    blob.then((data) => { image.src = URL.createObjectURL(data); }, () => image.remove());
    return element("button", {
      type: "button", title: label, "aria-label": `Example ${label}`,
      onclick: async () => this.open(await blob, name),
    }, image);
  }
}

/** The cosine distance of two embeddings: 0 for the same direction, 1 for orthogonal ones. */
function distance(first, second) {
  const dot = (a, b) => a.reduce((sum, value, place) => sum + value * b[place], 0);
  const lengths = Math.sqrt(dot(first, first) * dot(second, second));
  return lengths > 0 ? Math.max(0, 1 - dot(first, second) / lengths) : 1;
}
