// Everything that changes the cluster, each asked about first.

import { call, change } from "./api.js";
import { ask } from "./dialog.js";
import { clock } from "./dom.js";

const one = (name) => encodeURIComponent(name);

export const scale = (from, to) => ask({
  title: `Scale to ${to} ${to === 1 ? "instance" : "instances"}?`,
  text: to < from
    ? `${from} are wanted now. The newest are drained: they take nothing new, and what runs there may finish or goes on elsewhere.`
    : `${from} are wanted now. A new instance takes traffic once it has answered a real request and holds every adapter.`,
  action: "Scale",
  run: async () => {
    const { desired } = await change("POST", "v1/cluster/scale", { instances: to });
    return `${desired} ${desired === 1 ? "instance is" : "instances are"} wanted.`;
  },
});

export const strategy = (from, to) => ask({
  title: `Switch the strategy to ${to}?`,
  text: `Requests are sent by ${from} now. The next one goes by ${to}; none is dropped.`,
  action: "Switch",
  run: async () => { await change("POST", "v1/cluster/strategy", { strategy: to }); return `The strategy is ${to}.`; },
});

export const rolling = () => ask({
  title: "Restart all instances, one at a time?",
  text: "Each is drained before it is restarted, and is back in rotation before the next one's turn.",
  action: "Restart all",
  fields: [{
    name: "spare", label: "Spare", type: "select", value: "",
    options: [["", "as the settings say"], ["yes", "start a spare first, where there is room"], ["no", "no spare"]],
  }],
  run: async ({ spare }) => {
    const body = { rolling: true };
    if (spare) body.spare = spare === "yes";
    const answer = await change("POST", "v1/cluster/restart", body);
    return `Restarting ${answer.restarting.length} one at a time${answer.spare ? `; ${answer.spare} stands in` : ""}.`;
  },
});

export const restart = (name) => ask({
  title: `Restart ${name}?`,
  text: "It takes nothing new; what runs there may finish within the drain timeout, or goes on elsewhere.",
  action: "Restart", danger: true,
  run: async () => { await change("POST", "v1/cluster/restart", { instance_id: name }); return `${name} is being restarted.`; },
});

export const drain = (name) => ask({
  title: `Drain ${name}?`,
  text: "It takes nothing new until it is undrained, restarted or scaled away. What still runs there after the grace goes on elsewhere.",
  action: "Drain", danger: true,
  fields: [{ name: "grace", label: "Grace (seconds)", type: "text", help: "Empty: the drain timeout of the settings." }],
  run: async ({ grace }) => {
    const body = {};
    if (grace) {
      body.grace = Number(grace);
      if (!Number.isFinite(body.grace)) throw new Error("Grace: a number of seconds is needed.");
    }
    await change("POST", `v1/cluster/instances/${one(name)}/drain`, body);
    return `${name} is drained.`;
  },
});

export const undrain = (name) => ask({
  title: `Take ${name} back into rotation?`, text: "It gets new requests again.", action: "Undrain",
  run: async () => { await change("DELETE", `v1/cluster/instances/${one(name)}/drain`, {}); return `${name} is no longer drained.`; },
});

export const load = (known = null) => ask({
  title: known ? `Update ${known}` : "Load an adapter",
  text: known
    ? "The next version goes onto the instances one by one; the one before can be gone back to."
    : "It is checked, copied, and loaded on every instance, or on none.",
  action: known ? "Update" : "Load",
  fields: [
    ...(known ? [] : [{ name: "name", label: "Name", required: true, help: "What clients say as the model." }]),
    { name: "path", label: "Folder", required: true, help: "On the machine of the cluster; it may be deleted afterwards." },
    { name: "description", label: "Description" },
  ],
  run: async ({ name = known, path, description }) => {
    const body = { lora_name: name, lora_path: path };
    if (description) body.description = description;
    if (known) body.load_inplace = true;
    const answer = await change("POST", "v1/load_lora_adapter", body);
    return `${name} is loaded (version ${answer.version}).`;
  },
});

export const unload = (name) => ask({
  title: `Unload ${name}?`,
  text: "It is taken off every instance, and its versions are forgotten. Requests for it are answered with 404.",
  action: "Unload", danger: true,
  run: async () => { await change("POST", "v1/unload_lora_adapter", { lora_name: name }); return `${name} is unloaded.`; },
});

export async function rollback(name) {
  const { versions } = await call(`v1/lora_adapters/${one(name)}`);
  const others = versions.filter((version) => !version.active).reverse();
  const options = others.map((v) => [String(v.version), `version ${v.version}, of ${new Date(v.created * 1000).toLocaleDateString("en-GB")} ${clock(v.created)}`]);
  const active = versions.find((version) => version.active);
  if (!options.length) {
    return ask({
      title: `Roll back ${name}?`, text: `There is only version ${active?.version ?? 1}: nothing to go back to.`,
      action: "Close", run: async () => "",
    });
  }
  return ask({
    title: `Roll back ${name}?`,
    text: `Version ${active?.version} is in use. The other one goes onto the instances one by one; no request fails.`,
    action: "Roll back", danger: true,
    fields: [{ name: "version", label: "To", type: "select", value: options[0][0], options }],
    run: async ({ version }) => {
      const answer = await change("POST", `v1/lora_adapters/${one(name)}/rollback`, { version: Number(version) });
      return `${name} is at version ${answer.version ?? version}.`;
    },
  });
}
