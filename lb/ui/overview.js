// The cluster at a glance.

import * as actions from "./actions.js";
import { Chart } from "./chart.js";
import { $, bytes, count, h, keyed, millis, options, put, rate, span } from "./dom.js";
import { eventRow } from "./events.js";
import { store } from "./live.js";

let seconds = 300;
let chosen = false; // until then as much is shown as there is
let edited = false;

// one color an instance, as long as this page is open
const colors = new Map();
export function colorOf(name) {
  if (!colors.has(name)) colors.set(name, colors.size % 8);
  return colors.get(name);
}

// what was asked for; one that an earlier supervisor says nothing of is that in force
const strategyOf = (status) => status.wanted_strategy ?? status.load_balancer_strategy;

const charts = [
  [new Chart("Requests per second", rate), (samples) => [
    { name: "requests", color: 0, values: samples.map((v) => v.requests_per_s) },
    { name: "errors", color: "e", values: samples.map((v) => v.errors_per_s) },
  ]],
  [new Chart("Tokens per second", rate), (samples) => {
    const names = [...new Set(samples.flatMap((v) => Object.keys(v.instances)))].sort();
    if (!names.length) return [{ name: "all", color: 0, values: samples.map((v) => v.tokens_per_s) }];
    return names.map((name) => ({ name, color: colorOf(name), values: samples.map((v) => v.instances[name] ?? null) }));
  }],
  [new Chart("Time to first token", millis), (samples) => [
    { name: "p50", color: 0, values: samples.map((v) => v.ttft_p50_ms) },
    { name: "p99", color: 1, values: samples.map((v) => v.ttft_p99_ms) },
  ]],
  [new Chart("Duration of requests", millis), (samples) => [
    { name: "p50", color: 0, values: samples.map((v) => v.duration_p50_ms) },
    { name: "p99", color: 1, values: samples.map((v) => v.duration_p99_ms) },
  ]],
  [new Chart("In flight", rate), (samples) => [
    { name: "in flight", color: 0, values: samples.map((v) => v.in_flight) },
    { name: "of these queued", color: 1, values: samples.map((v) => v.queued) },
  ]],
];

const ranges = [...document.querySelectorAll("[data-seconds]")];

function range(wanted) {
  seconds = wanted;
  for (const button of ranges) button.setAttribute("aria-pressed", String(Number(button.dataset.seconds) === seconds));
}

function draw() {
  if (!chosen && store.samples.length) {
    const age = Date.now() / 1000 - store.samples[0].at;
    range(age <= 330 ? 300 : age <= 1000 ? 900 : 3600);
  }
  const until = Math.max(store.samples.at(-1)?.at ?? 0, Math.floor(Date.now() / 1000)), from = until - seconds;
  const samples = store.samples.filter((sample) => sample.at >= from);
  for (const [chart, series] of charts) {
    chart.step = store.step;
    chart.show(samples.map((v) => v.at), series(samples), from, until);
  }
}

function tiles(status) {
  const now = store.now();
  const instances = Object.values(status.instances);
  const made = Object.keys(status.instances).map((name) => store.tokensPerSecond(name)).filter((value) => value !== null);
  const tokens = made.length ? made.reduce((a, b) => a + b, 0) : now?.tokens_per_s;
  const requests = instances.reduce((sum, i) => sum + i.requests_total, 0);
  const errors = instances.reduce((sum, i) => sum + i.errors_total, 0);
  const shown = [
    ["Requests/s", rate(now?.requests_per_s), `${count(requests)} in all`],
    ["Tokens/s", rate(tokens), "by the engines"],
    ["First token", millis(now?.ttft_p50_ms), `p99 ${millis(now?.ttft_p99_ms)}`],
    ["Duration", millis(now?.duration_p50_ms), `p99 ${millis(now?.duration_p99_ms)}`],
    ["In flight", count(status.load_balancer.in_flight), `${rate(now?.queued)} queued`],
    ["Errors/s", rate(now?.errors_per_s), `${count(errors)} in all`],
  ];
  keyed($("tiles"), shown, ([name]) => name, ([name]) => h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}), h("dd", { class: "dim" })),
    (tile, [, value, more]) => { put(tile.children[1], value); put(tile.children[2], more); });
}

const COLUMNS = ["name", "state", "place", "memory", "cache", "flight", "tokens", "first", "requests", "errors", "restarts", "up"];
const LABELS = ["Instance", "State", "Runs on", "Memory", "KV cache", "In flight", "Tokens/s", "First byte", "Requests", "Errors", "Restarts", "Up for"];

function row([name]) {
  const cells = COLUMNS.map((column, n) => h(n ? "td" : "th", { scope: n ? null : "row", class: n > 2 ? `n ${column}` : column, "data-label": LABELS[n] }));
  cells[0].append(h("span", { class: `swatch c${colorOf(name)}` }), h("span", {}, name));
  cells[1].append(h("span", { class: "pill" }), h("small", { class: "why dim" }));
  const hold = h("button", { type: "button", "data-do": "drain", onclick: () => (store.status.instances[name]?.state === "drained" ? actions.undrain(name) : actions.drain(name)) });
  const again = h("button", { type: "button", "data-do": "restart", onclick: () => actions.restart(name) }, "Restart");
  const log = h("a", { class: "button", href: `#logs/${encodeURIComponent(name)}`, "aria-label": `Log of ${name}` }, "Log");
  again.setAttribute("aria-label", `Restart ${name}`);
  return h("tr", {}, ...cells, h("td", { class: "do" }, h("span", { class: "buttons", "data-needs": "admin" }, hold, again, log)));
}


/** What an instance runs on, and how busy that is. */
export function place(i, gpus) {
  if (i.url) return i.url;
  if (!i.pid) return "–";
  const there = i.node ? `${i.node} · ` : "";
  const cpu = `${there}CPU · ${rate(i.cpu_percent)} %`;
  if (!i.gpus.length) return cpu;
  if (there) return `${there}GPU ${i.gpus.join(", ")}`; // what is known of GPUs is of this machine
  return i.gpus.map((id) => {
    const seen = gpus.find((gpu) => [String(gpu.index), gpu.uuid].includes(String(id)));
    const parts = [`GPU ${id}`];
    if (seen?.memory_total) parts.push(`${bytes(seen.memory_used)} of ${bytes(seen.memory_total)}`);
    if (typeof seen?.utilisation === "number") parts.push(`${Math.round(seen.utilisation * 100)} %`);
    if (typeof seen?.temperature === "number") parts.push(`${Math.round(seen.temperature)} °C`);
    return parts.join(" · ");
  }).join(", ");
}

const NODE_LOOKS = { up: "is-ready", waiting: "is-starting", lost: "is-failed" };

const nodeRow = () => h("li", {}, h("span"), " ", h("span", { class: "dim" }));

/** A node, and what runs there. */
function fillNode(row, n) {
  const [pill, rest] = row.children;
  put(pill, n.state);
  pill.className = `pill ${NODE_LOOKS[n.state]}`;
  const gpus = n.gpus ? `, ${n.free_gpus} of ${n.gpus} GPUs free` : "";
  const heard = n.state === "up" ? "" : `, heard ${span(n.heard_s)} ago`;
  put(rest, `${n.name}: ${n.instances.length} running${heard}${gpus}`);
}

function fill(tr, [name, i]) {
  const cells = tr.children;
  const [pill, why] = cells[1].children;
  const state = i.degraded ? "degraded" : i.state;
  put(pill, state);
  pill.className = `pill is-${state}`;
  put(why, i.reason || i.phase);
  put(cells[2], place(i, store.gpus));
  put(cells[3], i.memory_mb === null ? "–" : bytes(i.memory_mb * 2 ** 20));
  put(cells[4], i.kv_cache_percent === null || i.kv_cache_percent === undefined ? "–" : `${i.kv_cache_percent} %`);
  put(cells[5], count(i.in_flight));
  put(cells[6], rate(store.tokensPerSecond(name)));
  put(cells[7], millis(i.first_byte_ms));
  put(cells[8], count(i.requests_total));
  put(cells[9], count(i.errors_total));
  put(cells[10], count(i.restarts));
  put(cells[11], i.pid || !i.managed ? span(i.uptime_s) : "–");
  const [hold, again, log] = cells[12].firstElementChild.children;
  put(hold, i.state === "drained" ? "Undrain" : "Drain");
  hold.setAttribute("aria-label", `${hold.textContent} ${name}`);
  again.disabled = !i.managed;
  log.hidden = !i.managed;
}

// A status is told once a second: what is older says so.
const STALE_S = 5;

export const aged = ({ age_s: age }) => (age > STALE_S ? `as of ${span(age)} ago` : "");

function show() {
  const status = store.status;
  if (!status) return;
  const { total_instances: total, running_instances: running, supervisor, load_balancer: balancer } = status;
  const attached = Object.values(status.instances).filter((i) => !i.managed);
  const ready = running + attached.filter((i) => i.is_running).length, wanted = total + attached.length;
  put($("health"), `${ready} of ${wanted} ready`);
  $("health").className = `pill ${!status.is_running ? "is-failed" : ready < wanted ? "is-degraded" : "is-ready"}`;
  put($("what"), status.model ?? "clusterctl");
  const parts = [status.engine];
  if (supervisor.pid === null) parts.push("no supervisor: traffic is served, changes are not possible");
  else if (supervisor.shutting_down) parts.push("shutting down");
  parts.push(aged(supervisor));
  if (supervisor.unsaved) parts.push("the state cannot be saved");
  if (balancer.replacing) parts.push("the balancer is being replaced");
  put($("supervisor"), parts.filter(Boolean).join(" · "));
  document.title = `${ready}/${wanted} ready · clusterctl`;

  const select = $("strategy");
  if (document.activeElement !== select) {
    options(select, store.strategies);
    select.options[0].text = strategyOf(status) === "auto" ? `auto (${status.load_balancer_strategy})` : "auto";
    select.value = strategyOf(status);
  }
  select.disabled = !store.may?.has("admin");
  if (!edited && document.activeElement !== $("scale-to")) $("scale-to").value = total;
  const scaling = status.autoscale, bounds = `from ${status.min_instances ?? 0} to ${status.max_instances ?? "any number"}`;
  const advice = scaling?.target ? `; autoscaling ${scaling.mode === "on" ? "wants" : "would want"} ${scaling.target}` : "";
  put($("scale-bounds"), bounds + advice);
  const r = supervisor.rolling;
  put($("rolling-state"), r?.stopped || (r?.active ? `rolling restart: ${r.done} of ${r.total} done` : ""));

  const instances = Object.entries(status.instances);
  keyed($("instances").tBodies[0], instances, ([name]) => name, row, fill);
  $("no-instances").hidden = instances.length > 0;
  const nodes = status.nodes ?? [];
  $("nodes").hidden = !nodes.length;
  keyed($("nodes"), nodes, (n) => n.name, nodeRow, fillNode);
  tiles(status);
  draw();
}

export function start() {
  $("charts").prepend(...charts.map(([chart]) => chart.element));
  store.addEventListener("status", show);
  store.addEventListener("event", () => keyed($("latest"), store.events.slice(-12).reverse(), (e) => e.id, eventRow, () => {}));
  for (const button of ranges) {
    button.addEventListener("click", () => { chosen = true; range(Number(button.dataset.seconds)); draw(); });
  }
  range(seconds);
  $("strategy").addEventListener("change", async () => {
    const from = strategyOf(store.status), to = $("strategy").value;
    if (to !== from && !(await actions.strategy(from, to))) $("strategy").value = from;
  });
  const field = $("scale-to");
  field.addEventListener("input", () => { edited = true; });
  for (const button of document.querySelectorAll("[data-by]")) {
    button.addEventListener("click", () => {
      field.value = Math.max(0, (Number.parseInt(field.value, 10) || 0) + Number(button.dataset.by));
      edited = true;
    });
  }
  $("scale").addEventListener("submit", async (event) => {
    event.preventDefault();
    const to = Number.parseInt(field.value, 10);
    if (Number.isInteger(to) && store.status) await actions.scale(store.status.total_instances, to);
    edited = false;
    if (store.status) field.value = store.status.total_instances;
  });
  $("rolling").addEventListener("click", () => actions.rolling());
}
