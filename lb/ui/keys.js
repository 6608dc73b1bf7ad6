// API keys: what each may, what it has left, and when it was last used.

import { $, count, day, h, keyed, put, span } from "./dom.js";
import * as actions from "./key_actions.js";
import { Section, cells } from "./section.js";

const LABELS = ["Key", "Scope", "State", "Models", "Limits", "Tokens today", "Last used"];
const MOST = 500; // rows
let found = { keys: [], used: new Map() };

const section = new Section("keys", load, show, { needs: "admin", every: 10000, events: /^key\./ });

async function load(call) {
  const from = day(Date.now() / 1000 - 30 * 86400);
  const [{ keys }, usage] = await Promise.all([
    call("v1/cluster/keys", { ask: false }),
    call(`v1/cluster/usage?by=key,day&from=${from}`, { ask: false }).catch(() => ({ usage: [] })), // the keys can be seen without
  ]);
  return { keys, used: byKey(usage.usage) };
}

/** Of the ledger's rows: the last day on which each key was used, and its tokens of today and of this month. */
function byKey(rows) {
  const today = day(Date.now() / 1000), used = new Map();
  for (const row of rows) {
    const one = used.get(row.key) ?? { last: "", today: 0, month: 0 };
    const tokens = row.prompt_tokens + row.completion_tokens;
    if (row.day > one.last) one.last = row.day;
    if (row.day === today) one.today += tokens;
    if (row.day.slice(0, 7) === today.slice(0, 7)) one.month += tokens;
    used.set(row.key, one);
  }
  return used;
}

function show(news = found) {
  found = news;
  const wanted = $("key-filter").value.trim().toLowerCase();
  const kept = found.keys.filter((key) => !wanted || [key.name, key.scope, ...(key.models ?? [])].join(" ").toLowerCase().includes(wanted));
  keyed($("key-table").tBodies[0], kept.slice(0, MOST), (key) => key.name, row, fill);
  if (!found.keys.length) return "There are no keys: nobody on this machine needs one.";
  return kept.length > MOST ? `${MOST} of ${kept.length} are shown: the filter finds others.` : "";
}

const now = (name) => found.keys.find((key) => key.name === name);
const forModels = () => found.keys.filter((key) => key.scope === "inference");

function row({ name }) {
  const made = cells(h, LABELS, ["Tokens today"]);
  put(made[0], name);
  made[2].append(h("span", { class: "pill" }), h("small", { class: "why dim" }));
  made[2].className = "state";
  made[3].append(h("span", { class: "chips" }));
  made[4].className = "wrap";
  const act = (words, run) => h("button", { type: "button", "aria-label": `${words} ${name}`, onclick: async () => { await run(now(name)); section.refresh(); } }, words);
  return h("tr", {}, ...made, h("td", { class: "do" }, h("span", { class: "buttons" },
    act("Change", actions.update), act("Rotate", actions.rotate), act("Revoke", (key) => actions.revoke(key, String(forModels().map((one) => one.name)) === name)))));
}

function fill(tr, key) {
  const made = tr.children, used = found.used.get(key.name);
  put(made[1], key.scope);
  const [pill, why] = made[2].children;
  put(pill, key.expired ? "expired" : "valid");
  pill.className = `pill ${key.expired ? "is-failed" : "is-ready"}`;
  put(why, state(key));
  keyed(made[3].firstElementChild, key.models ?? ["all"], String, (model) => h("span", { class: "chip is-named" }, model), () => {});
  put(made[4], limits(key, used) || "none");
  put(made[5], key.scope === "read" ? "–" : count(used?.today ?? 0));
  put(made[6], used?.last || (key.scope === "inference" ? "not in 30 days" : "–"));
  for (const button of made[7].querySelectorAll("button")) {
    button.disabled = key.source === "file";
    button.title = key.source === "file" ? "It stands in the file of --api-keys: change it there." : "";
  }
}

function state(key) {
  const at = Date.now() / 1000, said = [];
  if (key.expires && !key.expired) said.push(`until ${day(key.expires)}`);
  const older = key.secrets.filter((secret) => secret.until !== null && secret.until > at);
  if (older.length) said.push(`the secret before holds for ${span(Math.max(...older.map((secret) => secret.until)) - at)}`);
  if (key.source === "file") said.push("from a file");
  return said.join(" · ");
}

function limits(key, used) {
  const said = [];
  if (key.rpm) said.push(`${count(key.rpm)} requests/min`);
  if (key.tpm) said.push(`${count(key.tpm)} tokens/min`);
  if (key.max_concurrent) said.push(`${count(key.max_concurrent)} at a time`);
  if (key.budget) {
    const [tokens, period] = key.budget.split("/");
    said.push(`${count(used?.[period === "day" ? "today" : "month"] ?? 0)} of ${count(Number(tokens))} a ${period}`);
  }
  if (key.priority && key.priority !== "normal") said.push(`priority ${key.priority}`);
  if (key.weight && key.weight !== 1) said.push(`weight ${key.weight}`);
  return said.join(" · ");
}

export const refresh = () => section.refresh();

export function start() {
  section.start();
  $("key-filter").addEventListener("input", () => section.say(show()));
  $("create-key").addEventListener("click", async () => { await actions.create(!forModels().length); refresh(); });
}
