// Adapters with their versions, and where they are loaded.

import * as actions from "./actions.js";
import { call } from "./api.js";
import { $, bytes, count, h, keyed, put } from "./dom.js";
import { store } from "./live.js";

const EVERY = 5000; // ms; at once when an event says that something changed
let timer = null;
let asked = 0;

const LABELS = ["Adapter", "Version", "State", "On instances", "Rank", "Size", "Requests", "Last used"];

function row({ lora_name: name }) {
  const cells = LABELS.map((label, n) => h(n ? "td" : "th", { scope: n ? null : "row", class: n > 3 && n < 7 ? "n" : null, "data-label": label }));
  cells[0].append(h("span", {}, name), h("small", { class: "why dim" }));
  cells[2].append(h("span", { class: "pill" }));
  cells[3].append(h("span", { class: "chips" }));
  const act = (words, run) => h("button", { type: "button", "aria-label": `${words} ${name}`, onclick: async () => { await guarded(run); refresh(); } }, words);
  return h("tr", {}, ...cells, h("td", { class: "do" }, h("span", { class: "buttons" },
    h("a", { class: "button", href: `#playground/${encodeURIComponent(name)}`, "aria-label": `Try ${name}` }, "Try"),
    act("Update", () => actions.load(name)), act("Roll back", () => actions.rollback(name)), act("Unload", () => actions.unload(name)))));
}

/** An error before there is a dialog to show it in. */
async function guarded(run) {
  try { await run(); } catch (error) { message(error.message); }
}

function fill(tr, adapter) {
  const cells = tr.children;
  put(cells[0].children[1], adapter.description ?? "");
  put(cells[1], adapter.version);
  const pill = cells[2].firstElementChild;
  put(pill, adapter.state);
  pill.className = `pill is-${adapter.state}`;
  keyed(cells[3].firstElementChild, Object.entries(adapter.instances), ([name]) => name, () => h("span", { class: "chip" }), (chip, [name, i]) => {
    put(chip, `${name} ${i.state}${i.version && i.version !== adapter.version ? ` (version ${i.version})` : ""}`);
    chip.className = `chip is-${i.state}`;
    chip.title = i.reason ?? "";
  });
  put(cells[4], adapter.rank ?? "–");
  put(cells[5], bytes(adapter.size));
  put(cells[6], count(adapter.requests_total));
  put(cells[7], adapter.last_used ? new Date(adapter.last_used * 1000).toLocaleString("en-GB") : "never");
}

function message(text) {
  $("no-adapters").hidden = !text;
  put($("no-adapters"), text);
}

export async function refresh() {
  clearTimeout(timer);
  if ($("adapters").hidden) return;
  const number = asked += 1;
  try {
    const { adapters } = await call("v1/lora_adapters", { ask: false });
    if (number !== asked) return;
    keyed($("adapter-table").tBodies[0], adapters, (a) => a.lora_name, row, fill);
    message(adapters.length ? "" : "No adapters are loaded.");
  } catch (error) {
    if (number === asked) message(error.message);
  }
  timer = setTimeout(refresh, EVERY);
}

export function start() {
  $("load").addEventListener("click", async () => { await guarded(() => actions.load()); refresh(); });
  store.addEventListener("event", () => {
    if (/^(adapter|worker)\./.test(store.lastEvent.kind)) { clearTimeout(timer); timer = setTimeout(refresh, 150); }
  });
}
