// Adapters with their versions, and where they are loaded.

import * as actions from "./actions.js";
import { $, bytes, count, h, keyed, put } from "./dom.js";
import { draw } from "./placement.js";
import { Section, cells } from "./section.js";

const LABELS = ["Adapter", "Version", "State", "On instances", "Rank", "Size", "Requests", "Last used"];

const section = new Section(
  "adapters", async (call) => Promise.all(["v1/lora_adapters", "v1/cluster/placement"].map((path) => call(path, { ask: false }))),
  ([{ adapters }, placement]) => {
    draw(placement);
    keyed($("adapter-table").tBodies[0], adapters, (a) => a.lora_name, row, fill);
    return adapters.length ? "" : "No adapters are loaded.";
  },
  { every: 5000, events: /^(adapter|worker)\./ },
);

export const refresh = () => section.refresh();

function row({ lora_name: name }) {
  const made = cells(h, LABELS, ["Rank", "Size", "Requests"]);
  made[0].append(h("span", {}, name), h("small", { class: "why dim" }));
  made[2].append(h("span", { class: "pill" }));
  made[3].append(h("span", { class: "chips" }));
  const act = (words, run) => h("button", { type: "button", "aria-label": `${words} ${name}`, "data-needs": "admin", onclick: async () => { await guarded(run); refresh(); } }, words);
  return h("tr", {}, ...made, h("td", { class: "do" }, h("span", { class: "buttons" },
    h("a", { class: "button", href: `#playground/${encodeURIComponent(name)}`, "aria-label": `Try ${name}` }, "Try"),
    act("Update", () => actions.load(name)), act("Roll back", () => actions.rollback(name)), act("Unload", () => actions.unload(name)))));
}

/** An error before there is a dialog to show it in. */
async function guarded(run) {
  try { await run(); } catch (error) { section.say(error.message); }
}

function fill(tr, adapter) {
  const made = tr.children;
  put(made[0].children[1], adapter.description ?? "");
  put(made[1], adapter.version);
  const pill = made[2].firstElementChild;
  put(pill, adapter.state);
  pill.className = `pill is-${adapter.state}`;
  keyed(made[3].firstElementChild, Object.entries(adapter.instances), ([name]) => name, () => h("span", { class: "chip" }), (chip, [name, i]) => {
    put(chip, `${name} ${i.state}${i.version && i.version !== adapter.version ? ` (version ${i.version})` : ""}`);
    chip.className = `chip is-${i.state}`;
    chip.title = i.reason ?? "";
  });
  put(made[4], adapter.rank ?? "–");
  put(made[5], bytes(adapter.size));
  put(made[6], count(adapter.requests_total));
  put(made[7], adapter.last_used ? new Date(adapter.last_used * 1000).toLocaleString("en-GB") : "never");
}

export function start() {
  section.start();
  $("load").addEventListener("click", async () => { await guarded(() => actions.load()); refresh(); });
}
