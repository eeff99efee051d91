/** Builds elements. No markup is ever parsed, so labels and file names cannot become code. */

/**
 * Create an element.
 * @param {string} tag - Its name.
 * @param {object} properties - `class`, `on…` handlers, `data-…` and other attributes. A value of
 *   false, null or undefined leaves the attribute out, true sets it without a value.
 * @param {...(Node|string|null)} children - Text is inserted as text.
 */
export function element(tag, properties = {}, ...children) {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) created.addEventListener(name.slice(2), value);
    else if (value === true) created.setAttribute(name, "");
    else if (value !== false && value != null) created.setAttribute(name, value);
  }
  created.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return created;
}

export function button(text, onclick, properties = {}) {
  return element("button", { type: "button", onclick, ...properties }, text);
}

/** Speak a text to people who use a screen reader, also if it is the same as before. */
export function announce(text) {
  const announcer = document.getElementById("announcer");
  announcer.textContent = announcer.textContent === text ? `${text}\u00a0` : text;
}

/** A share as people read it: 0.973 becomes "97.3 %". Only 0 and 1 are "0 %" and "100 %". */
export function percent(share) {
  const value = share * 100;
  if (value >= 99.95 && share < 1) return "> 99.9 %";
  if (value < 0.05 && share > 0) return "< 0.1 %";
  return `${value.toFixed(1).replace(/\.0$/, "")} %`;
}

export function milliseconds(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return `${value >= 10 ? value.toFixed(0) : value.toFixed(1)} ms`;
}

export function plural(count, singular, several = `${singular}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? singular : several}`;
}

/** Offer a text as a file. */
export function download(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
