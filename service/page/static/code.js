/** The view with requests to copy: for this host, this model and this version. */

import { announce, button, element } from "./dom.js";

const KEY = "YOUR_KEY";
const COPIED_MILLISECONDS = 1500;

export class CodeView {
  constructor(section) {
    this.samples = element("div", { class: "samples" });
    section.append(
      element("h1", {}, "Use it from code"),
      element(
        "p", {}, "These requests return the answers of this page. ",
        "Leave out the key if the service needs none. ",
        element("a", { href: "docs" }, "All routes and parameters"), ".",
      ),
      this.samples,
    );
  }

  use(target) {
    const base = document.baseURI.replace(/\/$/, "");
    this.samples.replaceChildren(...samples(base, target).map(([title, text]) => {
      const copy = button("Copy", async () => {
        await navigator.clipboard.writeText(text);
        announce("Copied");
        copy.textContent = "Copied";
        setTimeout(() => { copy.textContent = "Copy"; }, COPIED_MILLISECONDS);
      }, { "aria-label": `Copy ${title}` });
      return element(
        "div", { class: "card sample" },
        element("h2", {}, title), copy,
        element(
          "pre", { tabindex: 0, role: "region", "aria-label": title }, element("code", {}, text),
        ),
      );
    }));
  }
}

function samples(base, { model, version }) {
  const path = `${base}/v1/models/${encodeURIComponent(model)}/versions/${version}/predict`;
  return [
    ["curl", `curl --data-binary @photo.jpg -H 'Authorization: Bearer ${KEY}' \\
  '${path}'`],
    ["Python", `# pip install ./client, in a checkout of Resident
from resident_client import Client

with Client("${base}", api_key="${KEY}") as client:
    result = client.predict("photo.jpg", model="${model}", version=${version})
    print(result.label, result.score)`],
    ["JavaScript", `const response = await fetch("${path}", {
  method: "POST",
  headers: { Authorization: "Bearer ${KEY}" },
  body: file, // a File, for example of <input type="file">
});
if (!response.ok) throw new Error((await response.json()).detail);
const { results } = await response.json();
console.log(results[0].predictions[0].label);`],
    ["tritonclient (Open Inference Protocol)", `# pip install 'tritonclient[http]'
import numpy as np, tritonclient.http as triton

client = triton.InferenceServerClient("${base.replace(/^https?:\/\//, "")}")
data = np.array([open("photo.jpg", "rb").read()], object)
image = triton.InferInput("images", [1], "BYTES")
image.set_data_from_numpy(data)
answer = client.infer("${model}", [image], "${version}", headers={"Authorization": "Bearer ${KEY}"})
print(answer.as_numpy("labels"))`],
  ];
}
