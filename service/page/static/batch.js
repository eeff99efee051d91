/** Many pictures: classified a few at a time, shown as a grid to sort, filter and download. */

import { BULK, predict } from "./api.js";
import { announce, button, download, element, percent, plural } from "./dom.js";
import { toCsv } from "./csv.js";

const CONCURRENT = 4;
const TOP_K = 5;
const COLUMNS = [
  ["name", "Picture", (row) => row.file.name.toLowerCase()],
  ["label", "Label", (row) => best(row)?.label ?? "\uffff"],
  ["score", "Score", (row) => best(row)?.score ?? -1],
  ["abstained", "Abstained", (row) => (row.result?.abstained ? 0 : 1)],
];

export class Batch {
  #sort = { column: 0, descending: false };
  #stop = new AbortController();

  /**
   * @param {HTMLElement} box - Where the grid is shown.
   * @param {object} target - The model and version.
   * @param {File[]} files - The pictures.
   * @param {(file: File) => void} open - Called to show one picture large.
   */
  constructor(box, target, files, open) {
    this.target = target;
    this.open = open;
    this.rows = files.map((file) => ({ file, result: null, error: null, line: null }));
    this.progress = element(
      "progress", { max: files.length, value: 0, "aria-label": "Pictures classified" },
    );
    this.status = element("p", { class: "muted" }); // announced at the end, not after every picture
    this.stopButton = button("Stop", () => this.cancel());
    this.label = select("Label", [["", "all labels"]], () => this.#show());
    this.least = element("input", {
      type: "range", min: 0, max: 100, value: 0, id: "least-score", oninput: () => this.#show(),
    });
    this.leastText = element("output", { for: "least-score" }, "0 %");
    this.state = select("Show", [
      ["", "all pictures"],
      ["answered", "answered"], ["abstained", "abstained"], ["failed", "failed"],
    ], () => this.#show());
    this.heads = COLUMNS.map(([id, title], index) => element(
      "th", { scope: "col", "data-column": id }, button(title, () => this.#sortBy(index)),
    ));
    this.body = element("tbody", {});
    box.replaceChildren(
      element(
        "h2", {},
        `${plural(files.length, "picture")} with ${target.model} version ${target.version}`,
      ),
      this.progress,
      this.status,
      element(
        "div", { class: "filters" },
        this.label.box, this.state.box,
        element("label", { for: "least-score" }, "Score at least ", this.leastText), this.least,
        element("span", { class: "actions" },
          button("Download CSV", () => this.#download()), this.stopButton),
      ),
      element(
        "div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Results" },
        element(
          "table", { class: "grid" },
          element("thead", {}, element("tr", {}, this.heads)),
          this.body,
        ),
      ),
    );
    for (const row of this.rows) this.body.append((row.line = this.#renderLine(row)));
    this.#sortBy(0, false);
  }

  cancel() {
    this.#stop.abort(new Error("stopped"));
  }

  /** Classify all pictures. Each one fails alone. */
  async run() {
    const waiting = this.rows.values(); // shared by the loops below
    const work = async () => {
      for (const row of waiting) {
        if (this.#stop.signal.aborted) return;
        await this.#classify(row);
      }
    };
    this.#report();
    await Promise.all(Array.from({ length: CONCURRENT }, work));
    this.stopButton.hidden = true;
    this.#sortBy(this.#sort.column, this.#sort.descending);
    this.#report();
    announce(this.status.textContent);
  }

  async #classify(row) {
    try {
      const options = { top_k: TOP_K, priority: BULK };
      row.result = await predict(this.target, row.file, options, this.#stop.signal);
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      row.error = error;
    }
    const line = this.#renderLine(row);
    row.line.replaceWith(line);
    row.line = line;
    line.hidden = !this.#isShown(row);
    if (row.result && !this.label.values.has(best(row).label)) this.label.add(best(row).label);
    this.#report();
  }

  #renderLine(row) {
    const { file, result, error } = row;
    const address = row.address ?? (row.address = URL.createObjectURL(file));
    const image = element("img", {
      src: address, alt: "", loading: "lazy", decoding: "async", width: 48, height: 48,
    });
    image.addEventListener("error", () => { image.style.visibility = "hidden"; });
    const open = button("", () => this.open(file), { class: "link", title: "Show this picture" });
    const name = element("td", {}, open);
    name.firstChild.append(image, element("span", {}, file.name));
    if (error) {
      return element("tr", { class: "failed" }, name, element(
        "td", { colspan: 3 }, element("strong", {}, error.message), " ", error.advice,
      ));
    }
    if (!result) {
      return element("tr", {}, name, element("td", { colspan: 3, class: "muted" }, "waiting"));
    }
    const { label, score } = best(row);
    const bar = element("span", { class: "bar", "aria-hidden": "true" }, element("span"));
    bar.firstChild.style.width = `${score * 100}%`;
    return element(
      "tr", {}, name, element("td", {}, label),
      element("td", { class: "number" }, bar, percent(score)),
      element("td", {}, result.abstained === undefined ? "–" : result.abstained ? "yes" : "no"),
    );
  }

  #sortBy(column, descending = this.#sort.column === column && !this.#sort.descending) {
    this.#sort = { column, descending };
    const key = COLUMNS[column][2];
    const factor = descending ? -1 : 1;
    this.rows.sort((a, b) => (key(a) < key(b) ? -factor : key(a) > key(b) ? factor : 0));
    this.body.append(...this.rows.map((row) => row.line));
    this.heads.forEach((head, index) => {
      if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  #isShown(row) {
    const wanted = this.state.value;
    const answered = row.result?.abstained ? "abstained" : row.result ? "answered" : "";
    const state = row.error ? "failed" : answered;
    if (wanted && wanted !== state) return false;
    if (this.label.value && best(row)?.label !== this.label.value) return false;
    const least = Number(this.least.value);
    return least === 0 || (best(row)?.score ?? -1) * 100 >= least;
  }

  #show() {
    this.leastText.textContent = `${this.least.value} %`;
    for (const row of this.rows) row.line.hidden = !this.#isShown(row);
    this.#report();
  }

  #report() {
    const done = this.rows.filter((row) => row.result || row.error).length;
    const failed = this.rows.filter((row) => row.error).length;
    const shown = this.rows.filter((row) => !row.line.hidden).length;
    this.progress.value = done;
    this.status.textContent =
      `${done.toLocaleString("en")} of ${plural(this.rows.length, "picture")} done, ` +
      `${failed} failed` +
      (shown < this.rows.length ? `; ${shown} shown` : "");
  }

  #download() {
    const names = ["name", "label", "score", "abstained", "error", "detail"];
    const lines = this.rows.filter((row) => !row.line.hidden).map((row) => [
      row.file.name, best(row)?.label, best(row)?.score, row.result?.abstained,
      row.error?.code, row.error?.message,
    ]);
    download(
      `${this.target.model}-${this.target.version}.csv`, toCsv([names, ...lines]), "text/csv",
    );
  }
}

function best(row) {
  return row.result?.predictions[0];
}

function select(title, choices, onchange) {
  const id = `filter-${title.toLowerCase()}`;
  const list = element("select", { id, onchange });
  const values = new Set();
  const add = (value, text = value) => {
    values.add(value);
    list.append(element("option", { value }, text));
  };
  for (const [value, text] of choices) add(value, text);
  return {
    box: element("label", { for: id }, title, " ", list),
    values,
    add,
    get value() { return list.value; },
  };
}
