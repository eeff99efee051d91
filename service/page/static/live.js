/** The live view: what the service does now, as small moving plots. */

import { send } from "./api.js";
import { element, milliseconds } from "./dom.js";

const SECONDS = 60; // shown in each plot
const RETRY_MILLISECONDS = 3000;
const HEIGHT = 60;
const REJECTED = ["overloaded", "rate_limited"]; // codes of the status 429
const PLOTS = [
  ["Throughput", (now) => now.images, (value) => `${value.toFixed(0)} images/s`],
  ["Median latency", (now) => now.median, milliseconds],
  ["95 % are faster than", (now) => now.p95, milliseconds],
  ["Images per batch", (now) => now.batch, (value) => value.toFixed(1)],
  ["Queue", (now) => now.waiting, (value) => `${value} images`],
  ["Rejected", (now) => now.rejected, (value) => `${value.toFixed(0)} requests/s`],
];

export class LiveView {
  #reader = null;
  #last = null;
  #history = [];

  constructor(section) {
    this.plots = PLOTS.map(([title, read, format]) => new Plot(title, read, format));
    this.status = element("p", { class: "muted", role: "status" }, "Connecting …");
    this.errors = element("tbody", {});
    this.noErrors = element("p", { class: "muted" }, "None since the service started.");
    this.errorTable = element(
      "table", { class: "errors", hidden: true },
      element("caption", { class: "visually-hidden" }, "The newest error first"),
      element("thead", {}, element("tr", {}, ["Last seen", "Code", "Requests"].map((title) =>
        element("th", { scope: "col" }, title)))),
      this.errors,
    );
    section.append(
      element("h1", {}, "Live"),
      this.status,
      element("div", { class: "plots" }, this.plots.map((plot) => plot.box)),
      element("section", { class: "card", "aria-label": "Last errors" },
        element("h2", {}, "Last errors"), this.noErrors, this.errorTable),
    );
  }

  use() {}

  shown() {
    if (this.#reader) return;
    this.#reader = new AbortController();
    this.#follow(this.#reader.signal);
  }

  hidden() {
    this.#reader?.abort();
    this.#reader = this.#last = null;
  }

  /** Read the stream, again after a lost connection. EventSource could not send an API key. */
  async #follow(signal) {
    while (!signal.aborted) {
      try {
        const response = await send("page/live", { scope: "metrics", signal });
        for await (const data of readEvents(response.body)) this.#add(JSON.parse(data));
      } catch (error) {
        if (signal.aborted) return;
        if (error.status) {
          this.status.textContent = "The live view is not available now. Open it again later.";
          this.#reader = null;
          return;
        }
      }
      this.status.textContent = "No connection; trying again …";
      this.#last = null;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MILLISECONDS));
    }
  }

  #add(counters) {
    const at = performance.now();
    if (this.#last) {
      this.#history = [...this.#history, difference(this.#last, counters, at)].slice(-SECONDS);
      for (const plot of this.plots) plot.show(this.#history);
    }
    this.#last = { ...counters, at };
    this.#say(`The last ${SECONDS} seconds`);
    this.#showErrors(counters);
  }

  /** Change the text only if it is another one, or a screen reader would repeat it. */
  #say(text) {
    if (this.status.textContent !== text) this.status.textContent = text;
  }

  #showErrors({ outcomes, last_errors: lastErrors }) {
    const codes = Object.entries(lastErrors).sort(([, first], [, second]) => second - first);
    this.noErrors.hidden = codes.length > 0;
    this.errorTable.hidden = codes.length === 0;
    this.errors.replaceChildren(...codes.map(([code, seconds]) => element(
      "tr", { "data-code": code },
      element("td", {}, new Date(seconds * 1000).toLocaleTimeString()),
      element("th", { scope: "row" }, element("code", {}, code)),
      element("td", { class: "number" }, (outcomes[code] ?? 0).toLocaleString("en")),
    )));
  }
}

/** The data of each server-sent event of a stream. */
async function* readEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (text + value).split("\n\n");
    text = events.pop();
    for (const event of events) yield event.replace(/^data: /, "");
  }
}

function difference(before, now, at) {
  const seconds = (at - before.at) / 1000;
  const counts = now.latency.counts.map((count, bucket) => count - before.latency.counts[bucket]);
  const batches = now.batches - before.batches;
  const images = now.images - before.images;
  const rejected = REJECTED.reduce((sum, code) =>
    sum + (now.outcomes[code] ?? 0) - (before.outcomes[code] ?? 0), 0);
  return {
    images: Math.max(images, 0) / seconds,
    median: quantile(counts, now.latency.bounds, 0.5),
    p95: quantile(counts, now.latency.bounds, 0.95),
    batch: batches > 0 ? images / batches : null,
    waiting: now.waiting,
    rejected: rejected / seconds,
  };
}

/**
 * A quantile in milliseconds from the counts of a histogram, as Prometheus interpolates it; null
 * without requests.
 */
function quantile(counts, bounds, share) {
  const rank = share * counts.reduce((sum, count) => sum + count, 0);
  if (rank <= 0) return null;
  let below = 0;
  for (const [bucket, count] of counts.entries()) {
    if (below + count >= rank) {
      const low = bucket ? bounds[bucket - 1] : 0;
      const high = bounds[bucket] ?? low;
      return 1000 * (low + ((high - low) * (rank - below)) / count);
    }
    below += count;
  }
  return 0;
}

class Plot {
  constructor(title, read, format) {
    [this.read, this.format] = [read, format];
    this.value = element("p", { class: "large" }, "–");
    this.canvas = element("canvas", { height: HEIGHT * 2, "aria-hidden": "true" });
    this.box = element(
      "div", { class: "card plot" }, element("h2", {}, title), this.value, this.canvas,
    );
  }

  show(history) {
    const values = history.map(this.read);
    const last = values.at(-1);
    this.value.textContent = last === null ? "–" : this.format(last);
    const context = this.canvas.getContext("2d");
    const width = this.canvas.clientWidth;
    this.canvas.width = width * 2; // setting the width clears it
    context.setTransform(2, 0, 0, 2, 0, 0);
    const colour = getComputedStyle(this.box).getPropertyValue("--bar");
    Object.assign(
      context, { strokeStyle: colour, fillStyle: colour, lineWidth: 2, lineJoin: "round" },
    );
    const top = Math.max(...values, 1e-9);
    const points = values
      .map((value, index) => [
        width - (values.length - 1 - index) * (width / (SECONDS - 1)),
        value === null ? null : HEIGHT - 3 - (value / top) * (HEIGHT - 6), // null: no request
      ])
      .filter(([, y]) => y !== null);
    if (!points.length) return;
    context.beginPath();
    for (const [x, y] of points) context.lineTo(x, y);
    context.stroke();
    context.lineTo(points.at(-1)[0], HEIGHT);
    context.lineTo(points[0][0], HEIGHT);
    context.globalAlpha = 0.15;
    context.fill();
    context.globalAlpha = 1;
  }
}
