// Base models: which are up, which come when they are asked for, and why one does not.

import { bytes, $, count, h, keyed, put, span } from "./dom.js";
import * as actions from "./model_actions.js";
import { Section, cells } from "./section.js";

const LABELS = ["Model", "State", "Engine", "Instances", "Memory", "Requests", "Brought up", "Last used"];
const NUMBERS = ["Instances", "Memory", "Requests", "Brought up"];
/** In which states a button does something. */
const USEFUL = {
  wake: new Set(["down", "asleep", "failed"]), sleep: new Set(["up", "starting"]),
};
let found = [];

const section = new Section("models", async (call) => (await call("v1/cluster/models", { ask: false })).models, show, {
  every: 2000, events: /^(model|worker)\./,
});

function show(models = found) {
  found = models;
  keyed($("model-table").tBodies[0], models, (m) => m.name, row, fill);
  return models.length ? "" : "The cluster serves the one model that it was started with.";
}

export const refresh = () => section.refresh();

const known = (name) => found.find((model) => model.name === name);

function row({ name }) {
  const made = cells(h, LABELS, NUMBERS);
  made[0].append(h("span", {}, name), h("small", { class: "why dim wrap" }));
  made[1].append(h("span", { class: "pill" }), h("small", { class: "why wrap" }));
  const act = (words, run) => h("button", {
    type: "button", "aria-label": `${words} ${name}`, "data-act": words.toLowerCase(),
    onclick: async () => { if (known(name)) { await run(); refresh(); } },
  }, words);
  return h("tr", {}, ...made, h("td", { class: "do" }, h("span", { class: "buttons" },
    h("a", { class: "button", href: `#playground/${encodeURIComponent(name)}`, "aria-label": `Try ${name}` }, "Try"),
    h("span", { class: "buttons", "data-needs": "admin" },
      act("Wake", () => actions.wake(name)), act("Sleep", () => actions.sleep(name)),
      act("Pin", () => actions.pin(name)), act("Unpin", () => actions.unpin(name)), act("Unload", () => actions.unload(name))))));
}

function fill(tr, model) {
  const made = tr.children;
  const also = model.names.filter((name) => name !== model.name);
  put(made[0].children[1], [
    model.is_default ? "asked when none is named" : "", model.pinned ? "pinned" : "", also.length ? `also ${also.join(", ")}` : "",
    model.adapters.length ? `adapters: ${model.adapters.join(", ")}` : "",
  ].filter(Boolean).join(" · "));
  const [pill, why] = made[1].children;
  put(pill, model.state);
  pill.className = `pill is-${model.state}`;
  put(why, reason(model));
  put(made[2], model.engine);
  made[2].title = model.path ?? "";
  put(made[3], `${model.ready} of ${model.instances}`);
  put(made[4], model.gpus.length ? `GPU ${model.gpus.join(", ")}` : bytes(model.memory_bytes));
  put(made[5], model.waiting ? `${count(model.in_flight)} + ${count(model.waiting)} waiting` : count(model.in_flight));
  put(made[6], model.failures ? `${count(model.swaps)}, failed ${count(model.failures)}` : count(model.swaps));
  put(made[7], model.last_used ? new Date(model.last_used * 1000).toLocaleString("en-GB") : "never");
  const free = model.managed !== false; // of what the cluster was started with nothing is taken away
  const shown = {
    wake: USEFUL.wake.has(model.state), sleep: free && USEFUL.sleep.has(model.state) && !model.pinned,
    pin: free && !model.pinned, unpin: free && model.pinned, unload: free && !model.pinned,
  };
  for (const button of tr.querySelectorAll("[data-act]")) button.hidden = !shown[button.dataset.act];
}

/** Why it is not up, and since when somebody waits for it. */
function reason({ state, why, waiting, oldest_wait_s: oldest, retry_at: retry }) {
  const parts = [];
  if (state === "failed" && why) parts.push(why);
  if (state === "failed" && retry > Date.now() / 1000) parts.push(`tried again in ${span(retry - Date.now() / 1000)}`);
  if (waiting) parts.push(`the oldest request has waited ${span(oldest)}`);
  return parts.join("; ");
}

export function start() {
  section.start();
  $("load-model").addEventListener("click", async () => { await actions.load(); refresh(); });
}
