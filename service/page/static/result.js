/** One answer: what the model thinks of a picture, in words, bars and numbers. */

import { button, element, milliseconds, percent } from "./dom.js";

const STAGES = [
  ["receive_ms", "receive"],
  ["decode_ms", "decode"],
  ["queue_ms", "wait for a batch"],
  ["inference_ms", "run the model"],
];
const ABSTAINED = "This does not look like anything the model was trained on.";

/** How sure a score is, in words. */
export function sureness(score) {
  if (score >= 0.99) return "The model is almost certain.";
  if (score >= 0.9) return "The model is quite sure.";
  if (score >= 0.7) return "The model is fairly sure.";
  if (score >= 0.5) return "The model leans towards this.";
  return "The model is guessing.";
}

/** The answer in one sentence, for screen readers and tooltips. */
export function sentence(result) {
  const [best] = result.predictions;
  if (result.abstained) return `${ABSTAINED} Closest label: ${best.label}, ${percent(best.score)}.`;
  return `${best.label}, ${percent(best.score)}. ${sureness(best.score)}`;
}

/**
 * The parts of an answer.
 * @param {(index: number) => void} onLabel - Called with the class that the person chooses, if any.
 */
export function renderResult(result, target, onLabel) {
  return [
    renderVerdict(result),
    renderBars(result, onLabel),
    result.labels && renderSet(result),
    element("p", { class: "muted small" }, describeScores(target)),
    renderTimings(result),
  ].filter(Boolean);
}

function renderVerdict(result) {
  const [best] = result.predictions;
  if (result.abstained) {
    return element(
      "div",
      { class: "verdict abstained" },
      element("p", { class: "label" }, "Unlike anything it knows"),
      element("p", {}, ABSTAINED),
      element("p", { class: "muted" }, `The closest label is ${best.label}. Do not rely on it.`),
    );
  }
  return element(
    "div",
    { class: "verdict" },
    element(
      "p", { class: "label" }, best.label, element("span", { class: "score" }, percent(best.score)),
    ),
    element("p", {}, sureness(best.score)),
  );
}

function renderBars(result, onLabel) {
  const choose = (event, index) => {
    for (const each of event.target.closest("ol").querySelectorAll("button")) {
      each.setAttribute("aria-pressed", `${each === event.target}`);
    }
    onLabel(index);
  };
  return element(
    "ol",
    {
      class: `bars${result.abstained ? " faint" : ""}`,
      "aria-label": "Labels, most probable first",
    },
    result.predictions.map(({ label, index, score }, rank) => {
      const bar = element("span", { class: "bar", "aria-hidden": "true" }, element("span"));
      bar.firstChild.style.width = `${Math.max(score * 100, 0.5)}%`;
      return element(
        "li",
        { "data-label": label },
        onLabel
          ? button(label, (event) => choose(event, index), {
            class: "name", "aria-pressed": `${rank === 0}`,
            title: "Show where the model looked for this",
          })
          : element("span", { class: "name" }, label),
        bar,
        element("span", { class: "value" }, percent(score)),
      );
    }),
  );
}

function renderSet(result) {
  return element(
    "p",
    { class: "set" },
    `With ${percent(result.coverage)} coverage: `,
    result.labels.map((label) => element("span", { class: "chip" }, label)),
    result.labels.length === 0 && "no label is probable enough",
  );
}

function describeScores(target) {
  const { calibration, can_abstain: canAbstain } = target.detail;
  const scores = calibration
    ? "Scores are calibrated: about 80 % of the answers with a score of 80 % are right."
    : "Scores are not calibrated: they may be too high or too low.";
  return canAbstain
    ? scores
    : `${scores} This model cannot tell when a picture is unlike its training images.`;
}

function renderTimings(result) {
  const { timings } = result;
  const rows = STAGES.filter(([field]) => field in timings);
  return element(
    "details",
    { class: "timings" },
    element(
      "summary",
      {},
      `${result.model} version ${result.version} answered in ${milliseconds(timings.total_ms)}`,
    ),
    element(
      "table",
      {},
      element("caption", { class: "visually-hidden" }, "Time of each stage"),
      [...rows, ["total_ms", "total in the service"]].map(([field, name]) =>
        renderTiming(name, timings[field])),
      renderTiming("round trip of this page", result.roundTrip),
    ),
  );
}

function renderTiming(name, value) {
  return element(
    "tr", {}, element("th", { scope: "row" }, name), element("td", {}, milliseconds(value)),
  );
}

/** An error, with what it means and what to do. */
export function renderError(error, retry) {
  return element(
    "div",
    { class: "notice bad", role: "alert" },
    element("p", { class: "label" }, "That did not work"),
    element("p", {}, error.message),
    error.advice && element("p", {}, error.advice),
    retry && element("p", {}, element("button", { type: "button", onclick: retry }, "Try again")),
  );
}
