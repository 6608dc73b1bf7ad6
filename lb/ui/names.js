// Aliases with the figures of their sides, by which a canary is judged; routes with their rules, and what they chose.

import { $, clock, count, h, keyed, millis, options, put } from "./dom.js";
import * as figures from "./figures.js";
import * as actions from "./name_actions.js";
import { Section, cells } from "./section.js";

const SIDES = ["Alias", "Side", "Weight", "Requests", "Errors", "First token", "Copies"];
const ROUTES = ["Route", "Rules", "Else", "Chosen"];
const TTFT = "clusterctl_model_time_to_first_token_seconds_bucket";
let found = { aliases: {}, routes: {}, reading: null };
let before = null; // what is counted from: {reading, at}; null: since the balancers were started

const section = new Section("aliases", load, show, { every: 5000, events: /^(names|apply)/ });

async function load(call) {
  const [{ aliases }, { routes }, reading] = await Promise.all([
    call("v1/cluster/aliases", { ask: false }), call("v1/cluster/routes", { ask: false }),
    figures.now().catch(() => null), // the rest can be seen without
  ]);
  return { aliases, routes, reading };
}

function show(news = found) {
  found = news;
  const rows = Object.entries(found.aliases).flatMap(([name, alias]) => Object.entries(alias.sides).map(([model, weight], n) => ({ name, alias, model, weight, first: n === 0 })));
  keyed($("alias-table").tBodies[0], rows, ({ name, model }) => `${name}\n${model}`, side, fillSide);
  keyed($("route-table").tBodies[0], Object.entries(found.routes), ([name]) => name, routeRow, fillRoute);
  $("try").hidden = !Object.keys(found.routes).length;
  options($("try-route"), Object.keys(found.routes));
  put($("counted"), found.reading === null ? "There are no figures." : `Counted since ${before ? clock(before.at) : "the balancers were started"}; errors and times are of all requests for that model.`);
  $("count-all").hidden = before === null;
  return rows.length || Object.keys(found.routes).length ? "" : "There are no aliases and no routes.";
}

const shown = () => (before && found.reading ? figures.since(found.reading, before.reading) : found.reading);

function side({ name, model }) {
  const made = cells(h, SIDES, SIDES.slice(2));
  put(made[0], name);
  put(made[1], model);
  made[1].className = "wrap";
  const act = (words, run) => h("button", { type: "button", "aria-label": `${words} ${name}`, onclick: async () => { await run(); section.refresh(); } }, words);
  return h("tr", {}, ...made, h("td", { class: "do" }, h("span", { class: "buttons", "data-needs": "admin" },
    act("Change", () => actions.setAlias(name, found.aliases[name])), act("Undo", () => actions.undo("aliases", name)), act("Delete", () => actions.remove("aliases", name)))));
}

function fillSide(tr, { name, alias, model, weight, first }) {
  const made = tr.children, reading = shown(), total = Object.values(alias.sides).reduce((a, b) => a + b, 0);
  made[7].firstElementChild.hidden = !first; // once for all sides
  tr.className = first ? "" : "follows";
  put(made[2], `${weight} (${percent(weight / total)})`);
  if (reading === null) { for (const cell of [...made].slice(3, 7)) put(cell, "–"); return; }
  const requests = figures.sum(reading, "clusterctl_model_requests_total", { model }), errors = figures.sum(reading, "clusterctl_model_errors_total", { model });
  put(made[3], count(figures.sum(reading, "clusterctl_model_choices_total", { asked: name, model })));
  put(made[4], requests ? `${count(errors)} (${percent(errors / requests)})` : count(errors));
  put(made[5], `${millis(figures.quantile(reading, TTFT, { model }, 0.5))} · p99 ${millis(figures.quantile(reading, TTFT, { model }, 0.99))}`);
  put(made[6], copies(reading, name, model));
}

const percent = (share) => `${share > 0 && share < 0.1 ? (share * 100).toFixed(1) : Math.round((share || 0) * 100)} %`;

/** Those that were made of requests for the other side, and how they went. */
function copies(reading, asked, model) {
  const outcomes = figures.by(reading, "clusterctl_shadow_requests_total", { asked, model }, "outcome");
  let all = 0, good = 0;
  for (const [outcome, times] of outcomes) {
    if (outcome === "skipped") continue;
    all += times;
    if (outcome === "200") good += times;
  }
  if (!all) return "–";
  return `${count(good)} of ${count(all)} good · ${millis(figures.quantile(reading, "clusterctl_shadow_seconds_bucket", { asked, model }, 0.5))}`;
}

function routeRow([name]) {
  const made = cells(h, ROUTES);
  put(made[0], name);
  for (const cell of made.slice(1)) cell.className = cell === made[1] ? "wrap wide" : "wrap";
  const act = (words, run) => h("button", { type: "button", "aria-label": `${words} ${name}`, onclick: async () => { await run(); section.refresh(); } }, words);
  return h("tr", {}, ...made, h("td", { class: "do" }, h("span", { class: "buttons", "data-needs": "admin" },
    act("Change", () => actions.setRoute(name, found.routes[name])), act("Undo", () => actions.undo("routes", name)), act("Delete", () => actions.remove("routes", name)))));
}

function fillRoute(tr, [name, route]) {
  const made = tr.children, reading = shown();
  const rules = route.rules.map((rule) => `${[...(rule.keywords ?? []), ...(rule.pattern ? [`/${rule.pattern}/`] : [])].join(", ")} → ${rule.model}`);
  keyed(made[1], rules.map((text, n) => ({ text, n })), ({ n }) => n, () => h("span", { class: "line-of" }), (line, { text }) => put(line, text));
  put(made[2], route.default);
  const chosen = reading === null ? [] : [...figures.by(reading, "clusterctl_model_choices_total", { asked: name }, "model")].filter(([, times]) => times);
  put(made[3], chosen.map(([model, times]) => `${model} ${count(times)}`).join(" · ") || "–");
}

async function attempt(event) {
  event.preventDefault();
  const name = $("try-route").value, text = $("try-text").value;
  try {
    const { model, reason } = await actions.attempt(name, text);
    put($("try-said"), `${model}: ${reason}`);
    $("try-said").className = "";
  } catch (error) {
    put($("try-said"), error.message);
    $("try-said").className = "error";
  }
}

export const refresh = () => section.refresh();

export function start() {
  section.start();
  $("set-alias").addEventListener("click", async () => { await actions.setAlias(); refresh(); });
  $("set-route").addEventListener("click", async () => { await actions.setRoute(); refresh(); });
  $("count-now").addEventListener("click", () => { if (found.reading) before = { reading: found.reading, at: Date.now() / 1000 }; show(); });
  $("count-all").addEventListener("click", () => { before = null; show(); $("count-now").focus(); });
  $("try").addEventListener("submit", attempt);
}
