/** The dialog that asks for an API key. */

import { button, element } from "./dom.js";

const PURPOSES = {
  predict: "This service needs an API key for predictions.",
  manage: "To change what is served, enter an API key with the scope manage.",
  metrics: "To see what the service does, enter an API key with the scope metrics.",
};
let open = null; // several requests share one dialog

/** Ask for a key. Resolves to it, or to an empty text if the person cancels. */
export function askForKey(scope, refused) {
  open ??= show(scope, refused).finally(() => {
    open = null;
  });
  return open;
}

function show(scope, refused) {
  const input = element("input", {
    type: "password",
    id: "api-key",
    autocomplete: "off",
    required: true,
    "aria-describedby": "api-key-help",
  });
  const form = element(
    "form",
    { method: "dialog" },
    element("h2", { id: "api-key-title" }, "API key"),
    element("p", {}, PURPOSES[scope]),
    refused && element(
      "p", { class: "notice bad", role: "alert" }, `The key was refused: ${refused}`,
    ),
    element("label", { for: "api-key" }, "Key"),
    input,
    element(
      "p", { class: "muted", id: "api-key-help" },
      "It stays in the memory of this tab and is never stored.",
    ),
    element(
      "p",
      { class: "actions" },
      button("Cancel", () => dialog.close("")),
      element("button", { class: "primary" }, "Use this key"),
    ),
  );
  const dialog = element("dialog", { "aria-labelledby": "api-key-title" }, form);
  document.body.append(dialog);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close(input.value.trim());
  });
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
    dialog.showModal();
    input.focus();
  });
}
