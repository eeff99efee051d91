/** Starts the page: the choice of a model and version, and the views. */

import { ApiError, getJson, loadTarget } from "./api.js";
import { CodeView } from "./code.js";
import { button, element } from "./dom.js";
import { LiveView } from "./live.js";
import { ModelsView } from "./models.js";
import { renderError } from "./result.js";
import { TryView } from "./try.js";

const VIEWS = [
  ["try", "Try", TryView],
  ["models", "Models", ModelsView],
  ["live", "Live", LiveView],
  ["code", "Code", CodeView],
];
const RETRY_MILLISECONDS = 2000;
const main = document.getElementById("main");
const views = new Map();
const problem = element("div");
let latestChoice = 0;
let current = null; // the model and version that the views use

async function start() {
  const list = await loadModels();
  main.append(problem);
  const links = VIEWS.map(([id, title, View]) => {
    const section = element("section", { id: `view-${id}`, "aria-label": title, hidden: true });
    views.set(id, { view: new View(section), section });
    main.append(section);
    return element("a", { href: `#${id}`, "data-view": id }, title);
  });
  document.getElementById("views").append(...links);
  showChoice(list);
  addEventListener("hashchange", show);
  addEventListener("versionschanged", () => choose(current.model, current.version));
  await choose(list.default_model ?? list.models.find((each) => each.version)?.model);
  show();
}

/** Wait until a model serves: the service may just have started. */
async function loadModels() {
  const waiting = element("p", { class: "notice", role: "status" }, "The models are loading …");
  for (;;) {
    try {
      const list = await getJson("v1/models");
      if (list.models.some((each) => each.version)) {
        waiting.remove();
        return list;
      }
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      waiting.textContent = `${error.message} ${error.advice}`;
    }
    main.append(waiting);
    await new Promise((resolve) => setTimeout(resolve, RETRY_MILLISECONDS));
  }
}

function showChoice(list) {
  const models = element(
    "select",
    { id: "model", onchange: () => choose(models.value) },
    list.models.filter((each) => each.version).map((each) =>
      element("option", { value: each.model }, each.model)),
  );
  const versions = element("select", {
    id: "version",
    onchange: () => choose(models.value, Number(versions.value)),
  });
  document.getElementById("choice").append(
    element("label", { for: "model" }, "Model"), models,
    element("label", { for: "version" }, "Version"), versions,
  );
}

/** Use a version of a model, or its default one if that does not serve. The last choice counts. */
async function choose(model, version) {
  const choice = (latestChoice += 1);
  try {
    const detail = await getJson(`v1/models/${encodeURIComponent(model)}`);
    const serves = detail.versions
      .some((each) => each.version === version && each.state === "ready");
    const target = await loadTarget(detail, serves ? version : detail.version);
    if (choice === latestChoice) use(target);
  } catch (error) {
    problem.replaceChildren(renderError(error, () => choose(model, version)));
  }
}

function use(target) {
  current = target;
  problem.replaceChildren();
  document.getElementById("model").value = target.model;
  const ready = target.detail.versions.filter((each) => each.state === "ready");
  document.getElementById("version").replaceChildren(
    ...ready.map(({ version: number }) =>
      element("option", { value: number, selected: number === target.version }, `${number}`)),
  );
  for (const { view } of views.values()) view.use(target);
}

function show() {
  const wanted = location.hash.slice(1);
  const id = views.has(wanted) ? wanted : "try";
  for (const [name, { section, view }] of views) {
    section.hidden = name !== id;
    if (name === id) view.shown?.();
    else view.hidden?.();
  }
  for (const link of document.querySelectorAll("#views a")) {
    if (link.dataset.view === id) {
      link.setAttribute("aria-current", "page");
      document.title = `${link.textContent} – Resident`;
    } else link.removeAttribute("aria-current");
  }
}

start().catch((error) => {
  console.error(error);
  main.append(element(
    "div",
    { class: "notice bad", role: "alert" },
    element("p", {}, `The page could not start: ${error.message}`),
    button("Reload", () => location.reload()),
  ));
});
