// Who changed what, and who was refused: the latest first, older ones as they are asked for.

import { call } from "./api.js";
import { $, count, h, keyed, put } from "./dom.js";
import { Section, cells } from "./section.js";

const PAGE = 50;
const LABELS = ["When", "Who", "From", "Asked for", "Came to", "Changed"];
let entries = []; // the newest first

const section = new Section(
  "audit", (ask) => ask(`v1/cluster/audit?limit=${PAGE}`, { ask: false }), ({ entries: latest }) => {
    // What was read of older pages stays, where it follows on.
    const known = entries.findIndex((entry) => entry.id === latest.at(-1)?.id);
    entries = known >= 0 ? [...latest, ...entries.slice(known + 1)] : latest;
    return show(latest.length === PAGE || known >= 0);
  },
  { needs: "admin", events: /^(key|names|apply|scale|strategy|restart|drain|undrain|weight|adapter)/ },
);

function show(more) {
  keyed($("audit-table").tBodies[0], entries, (entry) => entry.id, row, () => {});
  $("audit-older").hidden = !more || entries.at(-1)?.id === 1;
  return entries.length ? "" : "Nothing has been changed yet, and nobody was refused.";
}

function row(entry) {
  const made = cells(h, LABELS);
  const at = new Date(entry.at * 1000);
  made[0].append(h("time", { datetime: at.toISOString() }, at.toLocaleString("en-GB")));
  put(made[1], entry.who ?? "–");
  put(made[2], entry.from ?? "–");
  made[3].className = made[5].className = "wrap wide";
  put(made[3], `${entry.method ?? ""} ${entry.path ?? ""}`);
  made[4].className = "wrap";
  made[4].append(h("span", { class: `pill ${entry.status < 400 ? "is-ready" : "is-failed"}` }, String(entry.status ?? "–")), h("span", {}, ` ${reason(entry)}`));
  made[5].append(...changes(entry).map((text) => h("span", { class: "line-of" }, text)));
  return h("tr", {}, ...made);
}

const reason = ({ reason: why = "", count: times = 1 }) => (times > 1 ? `${why} (${count(times)} times)` : why);

const changes = ({ changed = [] }) => changed.map(({ what, before, after }) => `${what}: ${plain(before)} → ${plain(after)}`);

function plain(value) {
  if (value === null || value === undefined) return "nothing";
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** Runs what a button asks for; says what goes wrong. */
async function guarded(button, run) {
  button.disabled = true;
  try { await run(); } catch (error) { section.say(error.message); }
  button.disabled = false;
}

async function older() {
  const found = await call(`v1/cluster/audit?limit=${PAGE}&before=${entries.at(-1).id}`, { ask: false });
  entries.push(...found.entries);
  section.say(show(found.entries.length === PAGE));
}

async function verify() {
  put($("audit-verified"), "reading all of it …");
  try {
    const { broken_at: at } = await call("v1/cluster/audit?limit=1&verify=1", { ask: false });
    put($("audit-verified"), at === null ? "The chain holds: nothing was changed or taken out." : `It was tampered with at row ${count(at)}.`);
    $("audit-verified").className = at === null ? "dim" : "error";
  } catch (error) {
    put($("audit-verified"), "");
    throw error;
  }
}

export const refresh = () => section.refresh();

export function start() {
  section.start();
  $("audit-older").addEventListener("click", (event) => guarded(event.currentTarget, older));
  $("audit-verify").addEventListener("click", (event) => guarded(event.currentTarget, verify));
  $("audit-newest").addEventListener("click", (event) => guarded(event.currentTarget, () => { entries = []; return refresh(); }));
}
