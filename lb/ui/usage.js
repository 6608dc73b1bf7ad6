// What was taken, by key, model and day: a chart, a table, and the same as a file.

import { Chart } from "./chart.js";
import { $, count, day, h, keyed, options, put } from "./dom.js";
import { Section, cells } from "./section.js";

const GROUPS = ["key", "model", "day"];
const COUNTS = ["requests", "prompt_tokens", "cached_tokens", "completion_tokens"];
const DAY = 86400;
const LINES = 7; // and the rest as one more
const MOST = 1000; // rows of the table; the file has all
const chart = new Chart("Tokens by day", count, day);
chart.step = DAY;
let shown = { by: [], rows: [] };

const section = new Section("usage", load, show, { every: 10000 });

const today = () => Math.floor(Date.now() / 1000 / DAY) * DAY;
const parse = (text) => Date.parse(`${text}T00:00:00Z`) / 1000;
const groups = () => $("usage-by").value.split(",");

async function load(call) {
  const by = groups(), lines = by.find((group) => group !== "day");
  const range = `from=${$("usage-from").value}&to=${$("usage-to").value}`;
  const ask = async (what) => (await call(`v1/cluster/usage?by=${what.join(",")}&${range}`, { ask: false })).usage;
  const rows = await ask(by); // one after the other: the first one writes down what the ledger has not yet
  const points = await ask(lines ? [lines, "day"] : ["day"]);
  return { by, rows, points, lines };
}

function show({ by, rows, points, lines }) {
  shown = { by, rows };
  draw(points, lines);
  const table = $("usage-table"), labels = [...by, ...COUNTS];
  if (table.dataset.by !== by.join()) {
    table.dataset.by = by.join();
    table.tHead.rows[0].replaceChildren(...labels.map((label) => h("th", { scope: "col", class: COUNTS.includes(label) ? "n" : null }, title(label))));
    table.tBodies[0].replaceChildren();
  }
  keyed(table.tBodies[0], rows.slice(0, MOST), (row) => JSON.stringify(by.map((group) => row[group])), () => h("tr", {}, ...cells(h, labels.map(title), COUNTS.map(title))),
    (tr, row) => labels.forEach((label, n) => put(tr.children[n], COUNTS.includes(label) ? count(row[label]) : row[label])));
  const all = COUNTS.map((name) => `${count(rows.reduce((sum, row) => sum + row[name], 0))} ${title(name).toLowerCase()}`);
  put($("usage-sum"), rows.length ? `${all.join(" · ")}${rows.length > MOST ? ` · ${MOST} of ${rows.length} rows are shown` : ""}` : "");
  $("usage-csv").disabled = !rows.length;
  return rows.length ? "" : "Nothing was used in these days. It is counted from the first key for models on.";
}

const title = (name) => name[0].toUpperCase() + name.slice(1).replace("_", " ");

/** A line each for those that took the most, one for all others. */
function draw(points, lines) {
  const from = parse($("usage-from").value), until = parse($("usage-to").value), times = [];
  for (let at = from; at <= until && times.length < 1000; at += DAY) times.push(at);
  const place = new Map(times.map((at, n) => [day(at), n])), sums = new Map();
  for (const point of points) {
    const name = lines ? point[lines] : "all", tokens = point.prompt_tokens + point.completion_tokens;
    if (!sums.has(name)) sums.set(name, { total: 0, values: times.map(() => 0) });
    const one = sums.get(name), at = place.get(point.day);
    if (at !== undefined) { one.values[at] += tokens; one.total += tokens; }
  }
  const ranked = [...sums].sort(([, a], [, b]) => b.total - a.total);
  const series = ranked.slice(0, LINES).map(([name, { values }], n) => ({ name, color: n, values }));
  const rest = ranked.slice(LINES);
  if (rest.length) series.push({ name: `${rest.length} others`, color: LINES, values: times.map((_, n) => rest.reduce((sum, [, { values }]) => sum + values[n], 0)) });
  chart.show(times, series, from - DAY / 2, until + DAY / 2);
}

/** As RFC 4180 has it. Names that a spreadsheet would take for a formula are made text. */
export function csv(by, rows) {
  const cell = (value) => {
    let text = String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const head = [...by, ...COUNTS];
  return [head, ...rows.map((row) => head.map((name) => row[name]))].map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}

function save() {
  const url = URL.createObjectURL(new Blob([csv(shown.by, shown.rows)], { type: "text/csv" }));
  h("a", { href: url, download: `usage-${$("usage-from").value}-${$("usage-to").value}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function range(days) {
  $("usage-to").value = day(today());
  $("usage-from").value = day(today() - (days - 1) * DAY);
  mark();
}

function mark() {
  const days = (parse($("usage-to").value) - parse($("usage-from").value)) / DAY + 1, open = $("usage-to").value === day(today());
  for (const button of document.querySelectorAll("[data-days]")) button.setAttribute("aria-pressed", String(open && Number(button.dataset.days) === days));
}

export const refresh = () => section.refresh();

export function start() {
  section.start();
  $("usage-chart").append(chart.element);
  const several = GROUPS.flatMap((one, n) => GROUPS.slice(n + 1).map((other) => `${one},${other}`));
  options($("usage-by"), ["key,model", ...GROUPS, ...several.filter((by) => by !== "key,model"), GROUPS.join()]);
  range(30);
  for (const button of document.querySelectorAll("[data-days]")) button.addEventListener("click", () => { range(Number(button.dataset.days)); refresh(); });
  for (const id of ["usage-from", "usage-to", "usage-by"]) $(id).addEventListener("change", () => { if ($(id).value) { mark(); refresh(); } });
  $("usage-csv").addEventListener("click", save);
}
