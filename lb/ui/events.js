// What happened, and what the processes write.

import { request } from "./api.js";
import { $, clock, h, keyed, options, printable, put } from "./dom.js";
import { store } from "./live.js";

const BAD = /exited|failed|killed|unhealthy|drift|unsaved|stopped$|lost/;
const COLOUR = /\x1b\[[0-9;:]*m/g;  // what programs write for a terminal
const GOOD = /ready|loaded|saved|undrain/;

export function eventRow(event) {
  const tone = BAD.test(event.kind) && event.kind !== "worker.stopped" ? "bad" : GOOD.test(event.kind) ? "good" : "";
  return h("li", { class: tone },
    h("time", { datetime: new Date(event.at * 1000).toISOString(), title: new Date(event.at * 1000).toLocaleString("en-GB") }, clock(event.at)),
    h("span", { class: "kind" }, event.kind), h("span", { class: "text" }, event.text));
}

function showEvents() {
  if ($("events").hidden) return;
  const wanted = $("filter").value.trim().toLowerCase();
  const found = store.events.filter((e) => !wanted || `${e.kind} ${e.subject} ${e.text}`.toLowerCase().includes(wanted));
  keyed($("event-list"), found.reverse(), (e) => e.id, eventRow, () => {});
}

const MOST = 400_000; // characters of a log that are kept
const AGAIN = 1000; // ms until a log that broke off is read anew
let reading = null;
let shownFor = "";

/** Begins anew with what is chosen now. */
export async function readLog(name) {
  reading?.abort();
  const own = reading = new AbortController();
  const view = $("log");
  shownFor = name;
  put(view, "");
  const follow = $("log-follow").checked;
  try {
    const path = `v1/cluster/instances/${encodeURIComponent(name)}/logs?lines=${$("log-lines").value}${follow ? "&follow=1" : ""}`;
    const response = await request(path, { signal: own.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const atEnd = view.scrollTop + view.clientHeight >= view.scrollHeight - 40;
      view.append(printable(value.replace(COLOUR, "").replace(/\r\n?/g, "\n")));
      while (view.textContent.length > MOST && view.firstChild !== view.lastChild) view.firstChild.remove();
      if (atEnd) view.scrollTop = view.scrollHeight;
    }
    if (!follow && !view.textContent) put(view, "Nothing has been written yet.");
  } catch (error) {
    if (own.signal.aborted) return;
    view.append(`\n— ${error.message} —\n`);
    if (error.status >= 400) return;
  }
  // A stream ends with the balancer that it came from: on at the next one.
  if (follow) setTimeout(() => { if (reading === own) readLog(name); }, AGAIN);
}

export function stopLog() {
  reading?.abort();
  reading = null;
  shownFor = "";
}

/** Logs are open, of `name` if one is given. */
export function showLogs(name) {
  logNames(name);
  if ($("log-of").value && shownFor !== $("log-of").value) readLog($("log-of").value);
}

function logNames(chosen = $("log-of").value) {
  const instances = Object.entries(store.status?.instances ?? {}).filter(([, i]) => i.managed).map(([name]) => name);
  const names = [...instances, "balancer"];
  if (chosen && !names.includes(chosen) && !store.status) names.unshift(chosen);
  options($("log-of"), names, chosen);
}

export function start() {
  store.addEventListener("event", showEvents);
  $("filter").addEventListener("input", showEvents);
  store.addEventListener("status", () => { if (!$("logs").hidden) { logNames(); if (!shownFor) showLogs(); } });
  for (const id of ["log-of", "log-lines", "log-follow"]) {
    $(id).addEventListener("change", () => readLog($("log-of").value));
  }
}

export { showEvents };
