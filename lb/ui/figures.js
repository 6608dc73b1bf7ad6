// Figures of /metrics: counts and times by model, and what routes and aliases chose.

import { request } from "./api.js";

const WANTED = /^clusterctl_(?:model_(?:requests_total|errors_total|choices_total|time_to_first_token_seconds_bucket)|shadow_(?:requests_total|seconds_bucket))\{/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Values by series as they are written: {name, labels, value}. */
export function read(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    if (!WANTED.test(line)) continue;
    const end = line.lastIndexOf("}"), series = line.slice(0, end + 1), name = series.slice(0, series.indexOf("{"));
    const labels = {};
    for (const [, label, value] of series.matchAll(LABEL)) labels[label] = value.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
    found.set(series, { name, labels, value: Number(line.slice(end + 1).trim().split(" ")[0]) });
  }
  return found;
}

export const now = async () => read(await (await request("metrics", { ask: false })).text());

/** What has come since `before`. A counter that is lower than it was has begun anew. */
export function since(reading, before) {
  const found = new Map();
  for (const [series, seen] of reading) {
    const was = before.get(series)?.value ?? 0;
    found.set(series, { ...seen, value: seen.value >= was ? seen.value - was : seen.value });
  }
  return found;
}

const fits = (seen, labels) => Object.entries(labels).every(([label, value]) => seen.labels[label] === value);

/** Those of the family `name` that have these labels. */
function* of(reading, name, labels) {
  for (const seen of reading.values()) if (seen.name === name && fits(seen, labels)) yield seen;
}

export function sum(reading, name, labels) {
  let total = 0;
  for (const seen of of(reading, name, labels)) total += seen.value;
  return total;
}

/** Values by another label. */
export function by(reading, name, labels, label) {
  const found = new Map();
  for (const seen of of(reading, name, labels)) found.set(seen.labels[label], (found.get(seen.labels[label]) ?? 0) + seen.value);
  return found;
}

/** The time (ms) that a share `q` stayed below: within a bucket as if spread evenly, as Prometheus has it. */
export function quantile(reading, name, labels, q) {
  const bounds = [...by(reading, name, labels, "le")].map(([le, value]) => [le === "+Inf" ? Infinity : Number(le), value]).sort(([a], [b]) => a - b);
  const all = bounds.at(-1)?.[1] ?? 0;
  if (!all) return null;
  const at = bounds.findIndex(([, value]) => value >= q * all);
  const [low, below] = at > 0 ? bounds[at - 1] : [0, 0], [high, value] = bounds[at];
  if (high === Infinity) return low * 1000;
  return (low + (high - low) * ((q * all - below) / (value - below))) * 1000;
}
