/** Where the model looked: a class-activation map over the picture, with an opacity slider. */

import { element } from "./dom.js";

const LONGER_SIDE = 512;
const START_OPACITY = 60;
const COLOURS = [[13, 8, 135], [156, 23, 158], [237, 121, 83], [240, 249, 33]]; // of 0, ⅓, ⅔ and 1

export class HeatMap {
  #explanation = null;

  /**
   * @param {HTMLElement} frame - Holds the picture and nothing else; the map is laid over it.
   * @param {object} placement - `scale`, `x` and `y` of the image that was sent, in the picture.
   */
  constructor(frame, placement = { scale: 1, x: 0, y: 0 }) {
    this.placement = placement;
    this.canvas = element("canvas", { class: "heat", "aria-hidden": "true", hidden: true });
    frame.append(this.canvas);
    this.slider = element("input", {
      type: "range", id: "opacity", min: 0, max: 100, value: START_OPACITY,
      oninput: () => this.#fade(),
    });
    this.caption = element("p", { class: "muted small" });
    this.controls = element(
      "div", { class: "heat-controls", hidden: true },
      element("label", { for: "opacity" }, "Where it looked"), this.slider, this.caption,
    );
  }

  remove() {
    this.canvas.remove();
  }

  /** Use the explanation of an answer; null hides the map. */
  use(explanation) {
    this.#explanation = explanation;
    this.canvas.hidden = this.controls.hidden = !explanation;
    if (explanation) this.show(explanation.labels[0].index);
  }

  /** Show where the model looked for one class. */
  show(index) {
    const { image, region, labels } = this.#explanation;
    const { label, map } = labels.find((each) => each.index === index);
    const scale = LONGER_SIDE / Math.max(image.width, image.height);
    this.canvas.width = Math.max(1, Math.round(image.width * scale));
    this.canvas.height = Math.max(1, Math.round(image.height * scale));
    const context = this.canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    const inside = scale * this.placement.scale;
    context.setTransform(inside, 0, 0, inside, scale * this.placement.x, scale * this.placement.y);
    context.drawImage(paint(map), region.left, region.top, region.width, region.height);
    this.canvas.dataset.label = label;
    this.caption.textContent =
      `Bright parts support “${label}”. Choose another label to see its map.`;
    this.#fade();
  }

  #fade() {
    this.canvas.style.opacity = this.slider.value / 100;
  }
}

/** A canvas with one pixel per cell of the map. What speaks against the class is transparent. */
function paint(map) {
  const [height, width] = [map.length, map[0].length];
  const peak = Math.max(...map.flat(), 1e-12);
  const pixels = new ImageData(width, height);
  map.flat().forEach((value, cell) => {
    const share = Math.min(Math.max(value / peak, 0), 1);
    const step = Math.min(share * (COLOURS.length - 1), COLOURS.length - 1 - 1e-9);
    const [low, high] = [COLOURS[Math.floor(step)], COLOURS[Math.floor(step) + 1]];
    const colour = low.map((start, channel) => start + (high[channel] - start) * (step % 1));
    pixels.data.set([...colour, share * 255], cell * 4);
  });
  const canvas = element("canvas", { width, height });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}
