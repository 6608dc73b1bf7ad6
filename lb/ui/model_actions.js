// Changes of models, each asked about first.

import { change } from "./api.js";
import { ask } from "./dialog.js";

const path = (name, rest = "") => `v1/models/${encodeURIComponent(name)}${rest}`;

/** A whole number, or nothing where nothing was written. */
function whole(text, what) {
  if (!text) return undefined;
  const value = Number(text);
  if (!Number.isInteger(value)) throw new Error(`${what}: a whole number is needed.`);
  return value;
}

export const load = () => ask({
  title: "Load a model",
  text: "It becomes a group of workers of its own, and is there again after a restart of the cluster.",
  action: "Load",
  fields: [
    { name: "name", label: "Name", required: true, help: "What clients say as the model." },
    { name: "path", label: "Model", required: true, help: "A folder or file on the machine of the cluster, or a hub id." },
    { name: "engine", label: "Engine", help: "Such as vllm or llamacpp; empty: as the settings say." },
    { name: "instances", label: "Instances", value: "1" },
    { name: "args", label: "Flags of the engine", help: "As on its command line; empty: none." },
    { name: "pinned", label: "Never unload it to make room", type: "checkbox" },
  ],
  run: async (values) => {
    const body = { model_name: values.name, model_path: values.path, instances: whole(values.instances, "Instances") };
    for (const part of ["engine", "args"]) if (values[part]) body[part] = values[part];
    if (values.pinned) body.pinned = true;
    const { model } = await change("POST", "v1/models/load", body);
    return `${values.name} is ${model?.state ?? "being loaded"}.`;
  },
});

const doing = (act, title, text, action, said, danger = false) => (name) => ask({
  title: title(name), text, action, danger,
  run: async () => { await change("POST", path(name, `/${act}`), {}); return `${name} ${said}.`; },
});

export const wake = doing("wake", (name) => `Bring ${name} up?`, "Another one may go for it, where there is no room for both.", "Wake", "is being brought up");

export const sleep = doing(
  "sleep", (name) => `Put ${name} to sleep?`, "What runs on it may finish. The next request for it brings it back.", "Sleep", "goes to sleep", true,
);

export const pin = doing("pin", (name) => `Pin ${name}?`, "It is not unloaded to make room for others.", "Pin", "is pinned");

export const unpin = doing("unpin", (name) => `Unpin ${name}?`, "It may be unloaded to make room for others.", "Unpin", "is not pinned any more");

export const unload = (name) => ask({
  title: `Unload ${name}?`,
  text: "Its workers are drained and end, and the cluster forgets it. Requests for it are answered with 404.",
  action: "Unload", danger: true,
  run: async () => { await change("DELETE", path(name), {}); return `${name} is being unloaded.`; },
});
