// Elements from text: nothing here, or anywhere on this page, turns text into markup.

// What `config/text.py` escapes too: control characters but line ends and tabs, what reorders text or is invisible in it,
// and line separators.
const UNSAFE = new RegExp(
  "[\\0-\\x08\\x0b-\\x1f\\x7f-\\x9f\\xad\\u061c\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb" +
  "\\u{e0000}-\\u{e007f}\\ud800-\\udfff]", "gu");

/** Text that others chose, so that each character stands where it is; anything else as it is. */
export function printable(value) {
  if (typeof value !== "string") return value;
  return value.replace(UNSAFE, (c) => {
    const code = c.codePointAt(0);
    const digits = code < 256 ? 2 : code < 65536 ? 4 : 8;
    return `\\${{ 2: "x", 4: "u", 8: "U" }[digits]}${code.toString(16).padStart(digits, "0")}`;
  });
}

export const $ = (id) => document.getElementById(id);

/** `h("td", {class: "n", onclick: f}, "text", element)` */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined).map(printable));
  return element;
}

export function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.map(printable));
  return element;
}

/** Writes only what differs, so that a selection and the focus stay where they are. */
export function put(element, text) {
  const wanted = text === null || text === undefined ? "" : printable(String(text));
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Makes the children of `parent` one for each item, in their order; what is there already is kept. */
export function keyed(parent, items, keyOf, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = known.get(key);
    if (child) known.delete(key);
    else {
      child = make(item);
      child.dataset.key = key;
    }
    update(child, item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const child of known.values()) child.remove();
}

/** The options of a select, with what was chosen kept. */
export function options(select, values, chosen = select.value) {
  const wanted = values.map(String);
  if ([...select.options].map((option) => option.value).join("\n") !== wanted.join("\n")) {
    select.replaceChildren(...wanted.map((value) => h("option", { value }, value)));
  }
  if (wanted.includes(chosen)) select.value = chosen;
}

const whole = new Intl.NumberFormat("en");
const one = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

export const count = (value) => (value === null || value === undefined ? "–" : whole.format(Math.round(value)));

export function rate(value) {
  if (value === null || value === undefined) return "–";
  return value >= 100 ? whole.format(Math.round(value)) : value === 0 ? "0" : one.format(value);
}

export function millis(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0 ms";
  if (value >= 10000) return `${one.format(value / 1000)} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  return value >= 10 ? `${Math.round(value)} ms` : `${one.format(value)} ms`;
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${unit && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** The day (UTC, as the cluster counts it) of a time in seconds. */
export const day = (at) => new Date(at * 1000).toISOString().slice(0, 10);

export const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");
