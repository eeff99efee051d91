/** The view of all models and versions: how good they are, and what an operator may do. */

import { getJson, manage, openReport } from "./api.js";
import { Comparison } from "./compare.js";
import { announce, button, element, percent, plural } from "./dom.js";
import { renderError } from "./result.js";

const COLUMNS = ["Version", "State", "Top-1 accuracy", "Proof", "Change"];

export class ModelsView {
  constructor(section) {
    this.problem = element("div");
    this.list = element("div", { class: "models" });
    this.comparison = new Comparison();
    section.append(
      element("h1", {}, "Models"),
      this.problem,
      this.list,
      this.comparison.box,
    );
  }

  use() {}

  async shown() {
    try {
      const { models } = await getJson("v1/models");
      const details = await Promise.all(models.map(({ model }) => getJson(modelPath(model))));
      this.list.replaceChildren(...details.map((each) => this.#renderModel(each)));
      this.comparison.use(details);
      this.problem.replaceChildren();
    } catch (error) {
      this.problem.replaceChildren(renderError(error, () => this.shown()));
    }
  }

  #renderModel(detail) {
    const { model, versions } = detail;
    const place = `[data-model="${CSS.escape(model)}"] .disclosure`;
    const table = element( // the roles, because on a phone it is displayed as cards
      "table", { class: "versions", role: "table" },
      element("caption", { class: "visually-hidden" }, `Versions of ${model}`),
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, COLUMNS.map((title) =>
        element("th", { scope: "col", role: "columnheader" }, title)))),
      element(
        "tbody", { role: "rowgroup" }, versions.map((each) => this.#renderVersion(detail, each)),
      ),
    );
    return element(
      "article", { class: "card", "data-model": model },
      element("h2", {}, model, " ", chip(detail.state), detail.default && chip("default")),
      detail.reason && element("p", { class: "notice bad" }, detail.reason),
      element(
        "div",
        { class: "scroll", tabindex: 0, role: "region", "aria-label": `Versions of ${model}` },
        table,
      ),
      hasAliases(detail) && element(
        "p", { class: "actions" },
        button("Roll back the newest promotion", () => {
          const question = `Undo the newest promotion of ${model}?`;
          return this.#change(question, `${modelPath(model)}/rollback`, {}, place);
        }),
      ),
    );
  }

  #renderVersion(detail, { version, state, reason, held }) {
    const aliases = Object.entries(detail.aliases ?? {}).filter(([, number]) => number === version);
    const cell = (column, ...children) => element(
      "td", { role: "cell", "data-title": COLUMNS[column] }, element("div", {}, ...children),
    );
    const [accuracy, proof] = [element("span", {}, "…"), element("span", {}, "…")];
    const more = element("td", { role: "cell", colspan: COLUMNS.length });
    const moreRow = element("tr", { role: "row", hidden: true }, more);
    const toggle = button(`${version}`, () => {
      moreRow.hidden = !moreRow.hidden;
      toggle.setAttribute("aria-expanded", `${!moreRow.hidden}`);
    }, {
      "aria-expanded": "false", "aria-label": `Version ${version}: details`,
      class: "link disclosure",
    });
    const path = `${modelPath(detail.model)}/versions/${version}`;
    const row = `[data-model="${CSS.escape(detail.model)}"] [data-version="${version}"]`;
    const place = `${row} .disclosure`;
    getJson(path).then((found) => {
      accuracy.textContent = describeAccuracy(found.metrics);
      proof.textContent = `${found.proof}, ${found.golden_images} golden images`;
      more.replaceChildren(renderDetails(found, () => this.#openReport(found)));
    }, (error) => {
      accuracy.textContent = "–";
      proof.textContent = error.message;
    });
    const change = (title, question, action) => {
      const body = action === "promote" ? {} : null;
      return button(title, () => this.#change(question, `${path}/${action}`, body, place),
        { "aria-label": `${title} version ${version} of ${detail.model}` });
    };
    const named = `version ${version} of ${detail.model}`;
    return [
      element(
        "tr", { role: "row", "data-version": version },
        element("th", { scope: "row", role: "rowheader", "data-title": COLUMNS[0] }, toggle),
        cell(1, chip(state), aliases.map(([name]) => chip(name)), held && chip(`held: ${held}`),
          reason && element("p", { class: "small" }, reason)),
        cell(2, accuracy), cell(3, proof),
        cell(
          4, element(
            "span", { class: "actions" },
            hasAliases(detail) && change(
              "Promote", `Point production of ${detail.model} to version ${version}?`, "promote",
            ),
            state === "ready"
              ? change("Unload", `Stop serving ${named} on this replica?`, "unload")
              : change("Load", `Serve ${named} on this replica?`, "load"),
          ),
        ),
      ),
      moreRow,
    ];
  }

  async #openReport(target) {
    try {
      await openReport(target);
    } catch (error) {
      this.#showProblem(error);
    }
  }

  #showProblem(error) {
    this.problem.replaceChildren(renderError(error));
    this.problem.scrollIntoView({ block: "center" });
  }

  /** @param {string} place - The selector of what gets the focus after the list is drawn again. */
  async #change(question, path, body, place) {
    if (!(await confirmed(question))) return;
    try {
      await manage("POST", path, body);
      await this.shown();
      this.list.querySelector(place)?.focus();
      dispatchEvent(new Event("versionschanged"));
      announce("Done");
    } catch (error) {
      this.#showProblem(error);
    }
  }
}

function modelPath(model) {
  return `v1/models/${encodeURIComponent(model)}`;
}

function chip(text) {
  return element("span", { class: "chip small" }, text);
}

function describeAccuracy(metrics) {
  if (!metrics) return "not measured";
  const interval = metrics.top1_interval?.map(percent).join(" to ");
  const images = metrics.test_images.toLocaleString("en");
  return `${percent(metrics.top1)}${interval ? ` (${interval})` : ""}, ${images} images`;
}

function renderDetails(found, openReport) {
  const checks = [
    ...found.gate.map((each) => ["all", each]),
    ...found.variants.flatMap(({ precision, gate }) => gate.map((each) => [precision, each])),
  ];
  const { training, derived_from: source } = found;
  const facts = [
    ["Published", new Date(found.created_at).toLocaleString()],
    ["Digest", found.digest],
    ["Labels", found.class_names.join(", ")],
    training && ["Trained", `${training.architecture} on ${training.data.name}, ` +
      `${plural(training.epochs, "epoch")}, seed ${training.seed}, run ${training.run_id}`],
    training && ["Repeat it", training.command],
    found.imported && ["Imported from", `${found.imported.name} (${found.imported.kind})`],
    source && ["Derived from", `${source.model} version ${source.version ?? "?"}`],
  ].filter(Boolean);
  const report = training?.report ? "Training report"
    : found.metrics?.report && "Evaluation report";
  return element(
    "div", { class: "details" },
    report && element("p", {}, button(report, openReport,
      { "aria-label": `${report} of ${found.model} version ${found.version}, in a new tab` })),
    element("dl", {}, facts.flatMap(
      ([name, text]) => [element("dt", {}, name), element("dd", {}, text)],
    )),
    checks.length > 0 && renderChecks(checks),
  );
}

/** The gates. The variants are named if any of them has gates of its own. */
function renderChecks(checks) {
  const named = checks.some(([variant]) => variant !== "all");
  const titles = ["Check", named && "Variant", "Value", "Limit", "Result"].filter(Boolean);
  return element(
    "table", {},
    element("caption", {}, "Gates"),
    element("thead", {}, element(
      "tr", {}, titles.map((title) => element("th", { scope: "col" }, title)),
    )),
    element("tbody", {}, checks.map(([variant, each]) => element(
      "tr", {},
      element("th", { scope: "row", title: each.detail },
        each.check.split("_")
          .flatMap((word, place) => (place ? ["_", element("wbr"), word] : [word]))),
      named && element("td", {}, variant),
      element("td", {}, figure(each.value)),
      element("td", {}, `${each.comparison === "at_least" ? "≥" : "≤"} ${figure(each.threshold)}`),
      element("td", {}, each.passed ? "passed" : `failed; waived: ${each.waived ?? "no"}`),
    ))),
  );
}

/** A number with up to four digits that count. */
function figure(value) {
  if (value !== 0 && Math.abs(value) < 0.001) return value.toExponential(1);
  return `${Number(value.toPrecision(4))}`;
}

/** Built-in models have no aliases, so nothing can be promoted or rolled back. */
function hasAliases(detail) {
  return detail.layer !== "built-in";
}

/** Ask before a change. Resolves to whether the person agrees. */
function confirmed(question) {
  const dialog = element(
    "dialog", { "aria-label": "Confirm" },
    element("p", {}, question),
    element("p", { class: "actions" },
      button("Cancel", () => dialog.close("")),
      button("Yes", () => dialog.close("yes"), { class: "primary" })),
  );
  document.body.append(dialog);
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    dialog.showModal();
  });
}
