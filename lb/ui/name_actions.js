// Changes of aliases and routes, each asked about first.

import { change } from "./api.js";
import { ask } from "./dialog.js";

const path = (kind, name, rest = "") => `v1/cluster/${kind}/${encodeURIComponent(name)}${rest}`;

/** `a=90,b=10` as weights by model; the last = parts them, for a model may have one in its name. */
function sides(text) {
  const found = {};
  for (const part of text.split(",").map((one) => one.trim()).filter(Boolean)) {
    const at = part.lastIndexOf("="), model = at < 0 ? part : part.slice(0, at).trim(), weight = at < 0 ? 1 : Number(part.slice(at + 1));
    if (!model || !Number.isFinite(weight)) throw new Error(`${part}: a model and its weight are needed, such as medical@3=90.`);
    if (Object.hasOwn(found, model)) throw new Error(`${model} is named twice.`);
    Object.defineProperty(found, model, { value: weight, enumerable: true });
  }
  return found;
}

export const written = (given) => Object.entries(given).map(([model, weight]) => `${model}=${weight}`).join(", ");

const naming = (known) => (known ? [] : [{ name: "name", label: "Name", required: true, help: "What clients say as the model." }]);

export const setAlias = (known = null, alias = { sides: {}, shadow: false }) => ask({
  title: known ? `Change ${known}` : "Set an alias",
  text: "Who asks stays on a side; when weights change, only those move that have to.",
  action: "Set",
  fields: [
    ...naming(known),
    { name: "sides", label: "Models and weights", required: true, value: written(alias.sides), help: "medical@3=90, medical@4=10: NAME@N is version N of an adapter." },
    { name: "shadow", label: "Of two sides, the other one gets a copy (its answer is dropped and measured)", type: "checkbox", value: alias.shadow },
  ],
  run: async (values) => {
    const name = known ?? values.name;
    await change("PUT", path("aliases", name), { sides: sides(values.sides), shadow: values.shadow });
    return `${name} is set.`;
  },
});

const EXAMPLE = [{ keywords: ["bill", "账单"], model: "" }];

export const setRoute = (known = null, route = { rules: EXAMPLE, default: "" }) => ask({
  title: known ? `Change ${known}` : "Set a route",
  text: "The first rule that fits the last user message says which model answers.",
  action: "Set",
  fields: [
    ...naming(known),
    { name: "rules", label: "Rules", type: "textarea", value: JSON.stringify(route.rules, null, 2), help: "JSON: each has a model, and keywords or a pattern." },
    { name: "default", label: "Where none fits", required: true, value: route.default },
  ],
  run: async (values) => {
    const name = known ?? values.name;
    let rules;
    try { rules = JSON.parse(values.rules || "[]"); } catch (error) { throw new Error(`Rules: ${error.message}`); }
    await change("PUT", path("routes", name), { rules, default: values.default });
    return `${name} is set.`;
  },
});

export const undo = (kind, name) => ask({
  title: `Put ${name} back?`, text: "To what it stood for before its last change; once more: to what it stands for now.", action: "Put back",
  run: async () => {
    const { now } = await change("POST", path(kind, name, "/undo"), {});
    return now ? `${name} is put back.` : `${name} stands for nothing, as before its last change.`;
  },
});

export const remove = (kind, name) => ask({
  title: `Delete ${name}?`, text: "Requests for it are for a model of that name then, or 404. It can be put back: POST …/undo.",
  action: "Delete", danger: true,
  run: async () => { await change("DELETE", path(kind, name), {}); return `${name} is deleted.`; },
});

/** What a route would choose for a text. */
export const attempt = (name, text) => change("POST", path("routes", name, "/test"), { text });
