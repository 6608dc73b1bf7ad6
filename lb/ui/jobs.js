// Jobs: what the cluster does besides serving, how far it is, and what came of it.

import { change } from "./api.js";
import { ask } from "./dialog.js";
import { $, bytes, count, h, keyed, put, span } from "./dom.js";
import { Section, cells } from "./section.js";

const LABELS = ["Job", "State", "How far", "Took", "Asked for by"];
const PILLS = { running: "is-starting", done: "is-ready", failed: "is-failed" };
let found = [];

const section = new Section("jobs", async (call) => (await call("v1/cluster/jobs", { ask: false })).jobs, show, {
  every: 2000, events: /^job\./,
});

export const start = () => section.start();
export const refresh = () => section.refresh();

function show(jobs = found) {
  found = jobs;
  keyed($("job-table").tBodies[0], jobs, (job) => job.id, row, fill);
  return jobs.length ? "" : "No jobs. Commands such as clusterctl lora train have the cluster do one.";
}

const cancel = (id) => ask({
  title: `Cancel ${id}?`, text: "It is asked to end, and has some seconds to clear up.", action: "Cancel job", danger: true,
  run: async () => { await change("DELETE", `v1/cluster/jobs/${encodeURIComponent(id)}`, {}); return `${id} is asked to end.`; },
});

function row({ id }) {
  const made = cells(h, LABELS, ["Took"]);
  put(made[0], id);
  made[1].append(h("span", { class: "pill" }));
  made[2].className = "wrap wide";
  return h("tr", {}, ...made, h("td", { class: "do" }, h("span", { class: "buttons", "data-needs": "admin" }, h("button", {
    type: "button", "aria-label": `Cancel ${id}`, onclick: async () => { await cancel(id); refresh(); },
  }, "Cancel"))));
}

function fill(tr, job) {
  const made = tr.children, [pill] = made[1].children;
  const ended = ["done", "failed", "cancelled"].includes(job.state);
  put(pill, job.cancelling && !ended ? "cancelling" : job.state);
  pill.className = `pill ${PILLS[job.state] ?? ""}`;
  put(made[2], job.error ?? (ended || !job.progress ? "" : far(job.progress)));
  const until = job.ended_at ?? Date.now() / 1000;
  put(made[3], job.started_at === null ? "–" : span(Math.max(0, until - job.started_at)));
  put(made[4], job.by || "–");
  tr.querySelector(".do button").disabled = ended || job.cancelling;
}

function far({ stage, done, total, unit, figures }) {
  const shown = unit === "B" || unit === "bytes" ? bytes : count;
  const of = total === null ? "" : ` of ${shown(total)}`;
  const also = Object.entries(figures).map(([name, value]) => `${name} ${typeof value === "number" ? Number(value.toPrecision(4)) : value}`);
  return [`${stage}: ${shown(done)}${of} ${shown === bytes ? "" : unit}`.trim(), ...also].join(", ");
}
