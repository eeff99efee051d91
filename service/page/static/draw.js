/** A board to draw on, for models with small inputs. */

import { button, element } from "./dom.js";

const SIDE = 280;
const STROKE = SIDE / 9;
const SOFTNESS = SIDE / 28; // scanned digits have soft edges, and a model abstains from sharp ones
const MARGIN = 0.06; // of the side, around the drawing

export class DrawingBoard {
  #strokes = [];
  #background = "#000";
  #ink = "#fff";
  #onDrawn;
  #onErased;

  /**
   * @param {(image: Blob, placement: object) => void} onDrawn - Called after every stroke with a
   *   PNG, and with the `scale`, `x` and `y` that lay it over the board.
   * @param {() => void} onErased - Called when what was drawn last is no longer there.
   */
  constructor(onDrawn, onErased) {
    this.#onDrawn = onDrawn;
    this.#onErased = onErased;
    this.canvas = element("canvas", {
      width: SIDE, height: SIDE, role: "img",
      "aria-label": "Drawing board. Draw with a mouse, a pen or a finger.",
      onpointerdown: (event) => this.#begin(event),
      onpointermove: (event) => this.#extend(event),
      onpointerup: () => this.#finish(),
      onpointercancel: () => this.#finish(),
    });
    this.frame = element("div", { class: "frame" }, this.canvas);
    this.box = element(
      "div", { class: "board", hidden: true },
      this.frame,
      element(
        "p", { class: "actions" },
        button("Undo", () => { this.#strokes.pop(); this.#changed(); }),
        button("Clear", () => { this.#strokes = []; this.#changed(); }),
      ),
      element(
        "p", { class: "muted small" },
        "Draw here. Your drawing is centred and scaled before the model sees it.",
      ),
    );
    this.drawing = false;
    this.#paint();
  }

  /** Draw on the colour that the model expects behind its images. */
  use([red, green, blue]) {
    this.#background = `rgb(${red} ${green} ${blue})`;
    this.#ink = red + green + blue > 3 * 127 ? "#000" : "#fff";
    this.#paint();
  }

  #begin(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.drawing = true;
    this.#strokes.push([this.#point(event)]);
    this.#paint();
  }

  #extend(event) {
    if (!this.drawing) return;
    this.#strokes.at(-1).push(this.#point(event));
    this.#paint();
  }

  #finish() {
    if (!this.drawing) return;
    this.drawing = false;
    this.#changed();
  }

  #point(event) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return [((event.clientX - left) / width) * SIDE, ((event.clientY - top) / height) * SIDE];
  }

  #changed() {
    this.#paint();
    this.#onErased();
    if (!this.#strokes.length) return;
    const copy = element("canvas", { width: SIDE, height: SIDE });
    copy.getContext("2d").filter = `blur(${SOFTNESS}px)`;
    const { scale, x, y } = this.#centred();
    this.#paint(copy, { scale, x, y });
    const placement = { scale: 1 / scale, x: -x / scale, y: -y / scale };
    copy.toBlob((blob) => this.#onDrawn(blob, placement), "image/png");
  }

  /** The scale and shift that make the drawing fill the board. */
  #centred() {
    const points = this.#strokes.flat();
    const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
    const [left, right] = [Math.min(...xs), Math.max(...xs)];
    const [top, bottom] = [Math.min(...ys), Math.max(...ys)];
    const room = SIDE * (1 - 2 * MARGIN) - STROKE;
    const scale = Math.min(room / Math.max(right - left, 1), room / Math.max(bottom - top, 1), 3);
    const shift = (from, to) => SIDE / 2 - (scale * (from + to)) / 2;
    return { scale, x: shift(left, right), y: shift(top, bottom) };
  }

  #paint(canvas = this.canvas, { scale, x, y } = { scale: 1, x: 0, y: 0 }) {
    const context = canvas.getContext("2d");
    context.fillStyle = this.#background;
    context.fillRect(0, 0, SIDE, SIDE);
    Object.assign(
      context, { strokeStyle: this.#ink, lineWidth: STROKE, lineCap: "round", lineJoin: "round" },
    );
    for (const [first, ...others] of this.#strokes) {
      context.beginPath();
      context.moveTo(first[0] * scale + x, first[1] * scale + y);
      for (const [px, py] of others.length ? others : [first]) {
        context.lineTo(px * scale + x, py * scale + y);
      }
      context.stroke();
    }
  }
}
