/** The view in which a person gives pictures and reads what the model thinks of them. */

import { predict } from "./api.js";
import { Batch } from "./batch.js";
import { takePhoto } from "./camera.js";
import { announce, button, element } from "./dom.js";
import { DrawingBoard } from "./draw.js";
import { Examples } from "./examples.js";
import { HeatMap } from "./heat.js";
import { renderError, renderResult, sentence } from "./result.js";

const MAX_DRAWING_SIDE = 64; // inputs up to this size are small enough to draw by hand
const TINY_SIDE = 64; // smaller pictures are shown as squares instead of a blur
const TOP_K = 5;
const SLOW_MILLISECONDS = 700;

export class TryView {
  #target = null;
  #image = null; // the picture that is shown: a Blob
  #request = null; // the AbortController of the request in progress
  #batch = null;

  constructor(section) {
    this.files = element("input", {
      type: "file", accept: "image/*,.tif,.tiff,.ppm,.pgm", multiple: true, hidden: true,
      onchange: () => { this.take([...this.files.files]); this.files.value = ""; },
    });
    this.picture = element("div", { class: "picture" });
    this.heat = null; // the heat map of the shown picture
    this.heatBox = element("div");
    this.examples = new Examples((image, name) => this.classify(image, name));
    this.nearest = element("div");
    this.board = new DrawingBoard(
      (image, placement) => {
        this.#overlay(this.board.frame, placement);
        this.classify(image, null, { show: false });
      },
      () => this.#overlay(null),
    );
    this.drawButton = button("Draw", () => this.#toggleBoard(), { "aria-expanded": "false" });
    this.coverage = element("fieldset", { class: "coverage", hidden: true });
    this.answer = element("div", { class: "answer", role: "region", "aria-label": "Answer" });
    this.batchBox = element("div", { class: "batch card", hidden: true });
    const zone = element(
      "div",
      { class: "zone card" },
      this.picture,
      this.board.box,
      this.heatBox,
      element(
        "p", { class: "actions" },
        button("Choose pictures", () => this.files.click(), { class: "primary" }),
        button("Camera", () => this.#photograph()),
        this.drawButton,
      ),
      this.files,
    );
    section.append(
      element("h1", { class: "visually-hidden" }, "Try a model"),
      element(
        "div", { class: "columns" },
        zone,
        element("div", { class: "answer-box card" }, this.answer, this.nearest, this.coverage),
        this.examples.box,
      ),
      this.batchBox,
    );
    this.#showInvitation();
    this.#acceptDrops(section);
  }

  /** Use another model or version, for the picture that is shown too. */
  use(target) {
    const sameModel = this.#target?.model === target.model;
    this.#target = target;
    const { input, preprocessing } = target.detail;
    const drawable = Math.max(input.height, input.width) <= MAX_DRAWING_SIDE;
    this.drawButton.hidden = !drawable;
    this.board.use(preprocessing.background);
    const areCharacters = target.detail.class_names.every((name) => name.length === 1);
    if (!sameModel) this.#toggleBoard(drawable && areCharacters);
    this.#showCoverages(target.detail.coverages ?? []);
    this.examples.use(target);
    if (this.#image) this.#classifyAgain();
  }

  /** Take files from the person: one is shown large, several become a grid. */
  take(files) {
    if (files.length === 1) this.classify(files[0], files[0].name);
    else if (files.length > 1) this.#classifyMany(files);
  }

  async classify(image, name, { show = true } = {}) {
    this.#image = image;
    if (show) {
      this.#overlay(null);
      this.#showPicture(image, name);
    }
    this.#request?.abort();
    const request = (this.#request = new AbortController());
    const slow = setTimeout(() => this.#showWaiting(request), SLOW_MILLISECONDS);
    this.answer.setAttribute("aria-busy", "true");
    const [target, heat] = [this.#target, this.heat];
    const coverage = this.coverage.querySelector(":checked")?.value;
    const explain = heat && target.detail.can_explain;
    const query = {
      top_k: TOP_K,
      ...(coverage && { coverage }),
      ...(explain && { explain: "map" }),
      ...(target.detail.has_embedding && { embedding: true }),
    };
    try {
      const result = await predict(target, image, query, request.signal);
      heat?.use(result.explanation ?? null);
      const onLabel = result.explanation && ((index) => heat.show(index));
      this.answer.replaceChildren(...renderResult({ ...result, coverage }, target, onLabel));
      this.coverage.hidden = !target.detail.coverages?.length;
      announce(sentence(result));
      this.#showNearest(request, result.embedding);
    } catch (error) {
      if (request !== this.#request) return; // another picture has taken its place
      const shown = request.signal.aborted ? new Error("You cancelled the request.") : error;
      this.answer.replaceChildren(renderError(shown, () => this.#classifyAgain()));
      this.nearest.replaceChildren();
    } finally {
      clearTimeout(slow);
      if (request === this.#request) this.answer.removeAttribute("aria-busy");
    }
  }

  async #showNearest(request, embedding) {
    const nearest = embedding && (await this.examples.renderNearest(embedding));
    if (request === this.#request) this.nearest.replaceChildren(...(nearest ? [nearest] : []));
  }

  #classifyAgain() {
    return this.classify(this.#image, null, { show: false });
  }

  #classifyMany(files) {
    this.#batch?.cancel();
    this.#batch = new Batch(this.batchBox, this.#target, files, (file) => {
      this.classify(file, file.name);
      scrollTo({ top: 0 });
    });
    this.batchBox.hidden = false;
    this.#batch.run();
    this.batchBox.scrollIntoView({ block: "start" });
  }

  #showInvitation() {
    this.picture.replaceChildren(element(
      "div", { class: "invitation" },
      element("p", { class: "large" }, "Drop a picture here"),
      element("p", { class: "muted" }, "One or hundreds. You can also paste one."),
    ));
    this.answer.replaceChildren(
      element("p", { class: "large" }, "What does the model see?"),
      element("p", { class: "muted" }, "Its answer appears here as soon as you give it a picture."),
    );
  }

  #showPicture(image, name) {
    const address = URL.createObjectURL(image);
    const shown = element("img", {
      src: address,
      alt: name ? `Your picture: ${name}` : "Your picture",
      onload: () => {
        shown.classList.toggle("tiny", shown.naturalWidth <= TINY_SIDE);
        URL.revokeObjectURL(address);
      },
      onerror: () => {
        URL.revokeObjectURL(address);
        frame.replaceWith(element(
          "p", { class: "muted" }, `${name}: your browser cannot show this format.`,
        ));
      },
    });
    const frame = element("div", { class: "frame" }, shown);
    this.picture.replaceChildren(frame);
    this.#overlay(frame);
    this.#toggleBoard(false);
  }

  /** Lay the map of the next answer over a frame; null removes the map that is shown. */
  #overlay(frame, placement) {
    this.heat?.remove();
    this.heatBox.hidden = false;
    this.heat = frame && new HeatMap(frame, placement);
    this.heatBox.replaceChildren(...(this.heat ? [this.heat.controls] : []));
  }

  #showWaiting(request) {
    if (request !== this.#request || request.signal.aborted) return;
    announce("The model is thinking.");
    this.answer.replaceChildren(
      element("p", { class: "large" }, "The model is thinking …"),
      element("progress", { "aria-label": "Waiting for the answer" }),
      element("p", {}, button("Cancel", () => request.abort(new Error("cancelled")))),
    );
  }

  #showCoverages(coverages) {
    const before = this.coverage.querySelector(":checked")?.value ?? "";
    const chosen = coverages.map(String).includes(before) ? before : "";
    this.coverage.hidden = coverages.length === 0 || !this.#image;
    const choices = [["", "off"], ...coverages.map((each) => [`${each}`, `${each * 100} %`])];
    this.coverage.replaceChildren(
      element(
        "legend", {},
        "Also show a set of labels that contains the right one with a probability of",
      ),
      ...choices.map(([value, text]) => element(
        "label", {},
        element("input", {
          type: "radio", name: "coverage", value, checked: value === chosen,
          onchange: () => this.#image && this.#classifyAgain(),
        }),
        element("span", {}, text),
      )),
    );
  }

  #toggleBoard(open = this.board.box.hidden) {
    this.board.box.hidden = !open;
    this.picture.hidden = open;
    this.heatBox.hidden =
      this.heat !== null && this.board.frame.contains(this.heat.canvas) !== open;
    this.drawButton.setAttribute("aria-expanded", `${open}`);
  }

  async #photograph() {
    const photo = await takePhoto();
    if (photo) this.take(Array.isArray(photo) ? photo : [photo]);
  }

  #acceptDrops(section) {
    let inside = 0; // dragenter and dragleave come for every child
    const images = (transfer) =>
      [...transfer.files].filter((file) => !file.type || file.type.startsWith("image/"));
    const highlight = (change) => {
      inside = change ? Math.max(0, inside + change) : 0;
      section.classList.toggle("dropping", inside > 0);
    };
    addEventListener("dragenter", () => highlight(1));
    addEventListener("dragleave", () => highlight(-1));
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      highlight(0);
      location.hash = "#try";
      const files = [...event.dataTransfer.files];
      this.take(files.length > 1 ? images(event.dataTransfer) : files);
    });
    addEventListener("paste", (event) => {
      const files = images(event.clipboardData);
      if (files.length) this.take(files);
    });
  }
}
