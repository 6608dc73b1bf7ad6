// Changes of API keys, each asked about first. A secret is shown once, and is nowhere in the page afterwards.

import { change } from "./api.js";
import { ask, showCode } from "./dialog.js";
import { day } from "./dom.js";

const path = (name, rest = "") => `v1/cluster/keys/${encodeURIComponent(name)}${rest}`;

const SCOPES = [["inference", "inference: ask models"], ["read", "read: look at the cluster"], ["admin", "admin: change it, too"]];

/** What one may say of a key: as text, and what that text means; `null` takes a limit away. */
const FIELDS = [
  { name: "scope", label: "Scope", type: "select", value: "inference", options: SCOPES },
  { name: "models", label: "Models", help: "With commas between them; empty: all.", text: (models) => models.join(", "), read: list },
  { name: "rpm", label: "Requests a minute", read: number },
  { name: "tpm", label: "Tokens a minute", read: number },
  { name: "max_concurrent", label: "Requests at a time", read: number },
  { name: "budget", label: "Budget of tokens", help: "Such as 1000000/day or 20000000/month." },
  { name: "priority", label: "Priority", type: "select", value: "normal", options: ["high", "normal", "low"].map((one) => [one, one]) },
  { name: "weight", label: "Weight", value: "1", help: "Its share among keys of its priority.", read: (text) => number(text) ?? 1 },
  { name: "expires", label: "Expires", help: "A day (2027-01-31), or from now on: 30d, 12h. Empty: never.", text: day, read: instant },
];

function number(text, label) {
  if (!text) return null;
  const value = Number(text);
  if (!Number.isFinite(value)) throw new Error(`${label}: a number is needed.`);
  return value;
}

function list(text) {
  const names = text.split(",").map((name) => name.trim()).filter(Boolean);
  return names.length ? names : null;
}

function instant(text) {
  if (!text) return null;
  return /^\d{4}-\d\d-\d\d$/.test(text) ? Date.parse(`${text}T00:00:00Z`) / 1000 : text;
}

/** `key` as the form shows it; one that there is not yet without `key`. */
function shown(key = {}) {
  return FIELDS.map(({ name, value = "", text = String, ...field }) => {
    const known = key[name];
    return { name, ...field, value: known === undefined || known === null ? value : text(known) };
  });
}

/** Of `values` what is not as it was in `before`. */
function changed(values, before) {
  const body = {};
  for (const { name, label, read = (text) => text || null } of FIELDS) {
    const was = before.find((field) => field.name === name).value;
    if (values[name] !== was) body[name] = read(values[name], label);
  }
  return body;
}

/** After the dialog that made it is gone, also where that was closed before the answer came. */
function reveal(made, what) {
  setTimeout(() => showCode(what, made.secret, "It is shown this once, and kept nowhere: the cluster has its hash only. Clients send it as Authorization: Bearer."));
}

export const create = (first) => ask({
  title: "Create a key",
  text: first ? "From the first key for models on, every request for models needs one, from everywhere." : "",
  action: "Create",
  fields: [{ name: "name", label: "Name", required: true }, ...shown()],
  run: async (values) => {
    const made = await change("POST", "v1/cluster/keys", { name: values.name, ...changed(values, shown()) });
    reveal(made, `The secret of ${made.name}`);
    return `${made.name} is made.`;
  },
});

export const update = (key) => ask({
  title: `Change ${key.name}`, text: "What it says holds at once, also for connections that are open.", action: "Change",
  fields: shown(key),
  run: async (values) => {
    const body = changed(values, shown(key));
    if (!Object.keys(body).length) return "Nothing was changed.";
    await change("PATCH", path(key.name), body);
    return `${key.name} is changed.`;
  },
});

export const rotate = (key) => ask({
  title: `Give ${key.name} another secret?`, text: "The one that it has now holds a while longer.", action: "Rotate",
  fields: [{ name: "grace", label: "For how long", value: "1d", help: "Such as 12h or 7d; 0: it ends at once." }],
  run: async ({ grace }) => {
    const body = grace ? { grace: grace === "0" ? 0 : grace } : {};
    const made = await change("POST", path(key.name, "/rotate"), body);
    reveal(made, `The new secret of ${made.name}`);
    return `${made.name} has another secret.`;
  },
});

export const revoke = (key, last) => ask({
  title: `Revoke ${key.name}?`,
  text: `Nobody gets in with it any more. What was let in before goes on to its end.${last ? " It is the last one for models: this machine needs none then." : ""}`,
  action: "Revoke", danger: true,
  run: async () => { await change("DELETE", path(key.name), {}); return `${key.name} is revoked.`; },
});
