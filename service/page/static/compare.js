/** Two versions on the same picture, side by side. */

import { loadTarget, predict } from "./api.js";
import { announce, button, element } from "./dom.js";
import { renderError, renderResult, sentence } from "./result.js";

const TOP_K = 5;

export class Comparison {
  #image = null;
  #targets = [];

  constructor() {
    const file = element("input", {
      type: "file", accept: "image/*", hidden: true,
      onchange: () => { this.#image = file.files[0] ?? null; this.#run(); },
    });
    this.choices = ["first", "second"].map((name) =>
      element("select", { id: `compare-${name}`, onchange: () => this.#run() }));
    this.answers = this.choices.map(() => element("div", { class: "card", hidden: true }));
    this.box = element(
      "section", { class: "card compare", "aria-label": "Compare two versions" },
      element("h2", {}, "Two versions on the same picture"),
      element(
        "p", { class: "filters" },
        element("label", { for: "compare-first" }, "First ", this.choices[0]),
        element("label", { for: "compare-second" }, "Second ", this.choices[1]),
        button("Choose a picture", () => file.click(), { class: "primary" }),
      ),
      file,
      element("div", { class: "pair" }, this.answers),
    );
  }

  /** Offer the versions that serve. */
  use(details) {
    this.#targets = details.flatMap((detail) =>
      detail.versions.filter((each) => each.state === "ready").map(({ version }) =>
        ({ model: detail.model, version, detail })));
    this.choices.forEach((choice, place) => {
      const chosen = choice.value || `${Math.min(place, this.#targets.length - 1)}`;
      choice.replaceChildren(...this.#targets.map(({ model, version }, index) =>
        element(
          "option", { value: index, selected: `${index}` === chosen },
          `${model} version ${version}`,
        )));
    });
  }

  #run() {
    if (!this.#image) return;
    this.choices.forEach(async (choice, place) => {
      const { detail, version } = this.#targets[Number(choice.value)];
      const answer = this.answers[place];
      answer.hidden = false;
      const title = element("h3", {}, `${detail.model} version ${version}`);
      try {
        const target = await loadTarget(detail, version);
        const result = await predict(target, this.#image, { top_k: TOP_K });
        answer.replaceChildren(title, ...renderResult(result, target));
        announce(`${title.textContent}: ${sentence(result)}`);
      } catch (error) {
        answer.replaceChildren(title, renderError(error));
      }
    });
  }
}
