/** Requests to the service. Keys are kept in memory until the tab is closed, and never stored. */

import { element } from "./dom.js";
import { askForKey } from "./key.js";

const keys = { predict: null, manage: null, metrics: null };
const MAX_RETRIES = 5;

/** The priority of requests that may wait. */
export const BULK = 2;

/** Why a request failed, and what the person can do. */
export class ApiError extends Error {
  constructor(status, code, detail, retrySeconds = 0) {
    super(detail.charAt(0).toUpperCase() + detail.slice(1));
    this.status = status;
    this.code = code;
    this.retrySeconds = retrySeconds;
  }

  get advice() {
    return ADVICE[this.code] ?? ADVICE[this.status]
      ?? "Try again; if it happens again, tell the operator of this service.";
  }
}

const ADVICE = {
  unreachable: "Check that the service is running and that you are connected, then try again.",
  not_an_image: "Choose a picture, such as a JPEG, PNG, WebP, GIF, BMP or TIFF file.",
  unsupported_image: "Save the picture as JPEG or PNG and try that file.",
  corrupt_image: "Open the file in a picture program and save it again, or choose another one.",
  truncated_image: "The file is incomplete. Download or copy it again.",
  empty_image: "The file is empty. Choose another one.",
  body_too_large: "Choose a smaller file, or reduce the size of the picture first.",
  too_many_pixels: "Reduce the size of the picture first.",
  model_not_found: "Choose another model at the top of the page.",
  version_not_found: "Choose another version at the top of the page.",
  management_disabled:
    "The operator can create a key: python -m service keys add NAME --scope manage.",
  401: "Enter an API key.",
  403: "Enter a key that is allowed to do this.",
  409: "", // the message says what to do
  413: "Choose a smaller picture.",
  415: "Save the picture as JPEG or PNG and try that file.",
  429: "The service is busy. Try again in a few seconds.",
  500: "The model failed on this picture. Try again; the log of the service has the reason.",
  503: "The model is not ready yet. Try again in a moment.",
  504: "The answer took too long. Try again when the service is less busy.",
};

/** Forget a key, so that the next request asks for one. */
export function forgetKeys() {
  keys.predict = keys.manage = keys.metrics = null;
}

/**
 * Send a request and return the response, which is successful. Asks for a key if one is needed.
 * @throws {ApiError}
 */
export async function send(path, { scope = "predict", ...options } = {}) {
  for (let refused = ""; ; ) {
    const headers = new Headers(options.headers);
    if (keys[scope]) headers.set("Authorization", `Bearer ${keys[scope]}`);
    const error = await attempt(path, { ...options, headers });
    if (error instanceof Response) return error;
    if (error.status !== 401 && error.code !== "insufficient_scope") throw error;
    const key = await askForKey(scope, keys[scope] ? error.message : refused);
    if (!key) throw error;
    keys[scope] = key;
    refused = error.message;
  }
}

export async function getJson(path, options) {
  return (await send(path, options)).json();
}

/** Send a management request with an optional JSON body and return the model as it is now. */
export async function manage(method, path, body) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  const text = body ? JSON.stringify(body) : undefined;
  return (await send(path, { scope: "manage", method, headers, body: text })).json();
}

/**
 * Classify one image. Waits and repeats the request while the service is overloaded.
 * @param {object} target - `model` and `version`.
 * @param {Blob} image - The encoded image.
 * @param {object} query - Query parameters.
 * @param {AbortSignal} signal - Ends the request.
 * @returns {Promise<object>} The result, with `model`, `version`, `timings` and `roundTrip`.
 */
export async function predict(target, image, query, signal) {
  const path = `${versionPath(target)}/predict?${new URLSearchParams(query)}`;
  for (let retries = 0; ; retries += 1) {
    const started = performance.now();
    try {
      const { results, ...rest } = await getJson(path, upload(image, signal));
      return { ...rest, ...results[0], roundTrip: performance.now() - started };
    } catch (error) {
      if (error.status !== 429 || retries >= MAX_RETRIES || signal?.aborted) throw error;
      await new Promise((resolve) => setTimeout(resolve, error.retrySeconds * 1000));
    }
  }
}

/**
 * Open the training report of a version in a tab of its own, where its content has no rights.
 * @throws {ApiError}
 */
export async function openReport(target) {
  const response = await send(`${versionPath(target)}/report`); // asks for a key if one is needed
  await response.body?.cancel();
  const action = `page/report/${encodeURIComponent(target.model)}/${target.version}`;
  const form = element(
    "form", { method: "post", action, target: "_blank", rel: "noopener", hidden: true },
    element("input", { type: "hidden", name: "key", value: keys.predict ?? "" }),
  );
  document.body.append(form);
  form.submit();
  form.remove();
}

/** The embedding of one image. */
export async function embed(target, image) {
  const path = `${versionPath(target)}/embed?priority=${BULK}`;
  return (await getJson(path, upload(image))).results[0].embedding;
}

/** A version to ask, with what the API says of it and of its model. Versions of a model differ. */
export async function loadTarget(detail, version) {
  const target = { model: detail.model, version };
  return { ...target, detail: { ...detail, ...(await getJson(versionPath(target))) } };
}

/** The path of a model and version in the API. */
export function versionPath({ model, version }) {
  return `v1/models/${encodeURIComponent(model)}/versions/${version}`;
}

function upload(image, signal) {
  const headers = { "Content-Type": "application/octet-stream" };
  return { method: "POST", headers, body: image, signal };
}

async function attempt(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (options.signal?.aborted) throw options.signal.reason;
    return new ApiError(0, "unreachable", "The service does not answer.");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  return new ApiError(
    response.status,
    problem.code ?? "",
    problem.detail ?? `The service answered ${response.status} ${response.statusText}.`,
    Number(response.headers.get("Retry-After")) || 1,
  );
}
