// What the cluster says of itself, as it says it: one stream for everything, opened anew whenever it ends.

import { ApiError, call, frames, request } from "./api.js";

const HOUR = 3600;
const EVENTS = 500;
const AGAIN = [500, 1000, 2000, 5000];
const SILENT = 15000; // ms without a message: the way is broken, whatever it says

class Store extends EventTarget {
  status = null;
  strategies = [];
  gpus = []; // as the driver sees them, where there are any
  samples = []; // oldest first
  step = 10;
  events = []; // oldest first
  link = "connecting"; // connecting, live, locked, lost, hidden
  reason = "";
  needsKey = false;
  may = null; // scopes of the key that is used here; null: not known
  #tokens = []; // the latest totals by instance, for a rate of this moment
  #stop = null;

  tell(what) { this.dispatchEvent(new Event(what)); }

  enter(link, reason = "") {
    if (this.link === link && this.reason === reason) return;
    this.link = link;
    this.reason = reason;
    this.tell("link");
  }

  /** Begins, or begins again: with another key, or when somebody looks again. */
  start(ask = true) {
    this.#stop?.abort();
    this.#stop = new AbortController();
    this.#run(this.#stop.signal, ask);
  }

  pause() {
    this.#stop?.abort();
    this.enter("hidden");
  }

  async #run(signal, ask) {
    let failures = 0;
    while (!signal.aborted) {
      try {
        await this.#listen(signal, ask, () => { failures = 0; });
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof ApiError && (error.status === 401 || error.status === 403)) {
          this.needsKey = error.status === 401;
          this.#learn("");
          this.enter("locked", error.message);
          if (error.status === 401) return; // until a key is entered
          failures = AGAIN.length;
        }
      }
      if (signal.aborted) return;
      if (this.link !== "locked") this.enter("lost");
      await new Promise((resolve) => { setTimeout(resolve, AGAIN[Math.min(failures, AGAIN.length - 1)]); });
      failures += 1;
    }
  }

  async #listen(signal, ask, heard) {
    const ended = new AbortController();
    const abort = () => ended.abort();
    signal.addEventListener("abort", abort);
    let timer;
    const watch = () => { clearTimeout(timer); timer = setTimeout(abort, SILENT); };
    try {
      const last = this.events.at(-1)?.id;
      const headers = { Accept: "text/event-stream" };
      if (last !== undefined) headers["Last-Event-ID"] = last;
      const response = await request("v1/cluster/live", { headers, signal: ended.signal, ask });
      this.#learn(response.headers.get("X-Clusterctl-May"));
      watch();
      const history = await call(`v1/cluster/history?seconds=${HOUR}`, { signal: ended.signal, ask });
      this.step = history.step_s;
      this.samples = history.samples;
      for await (const frame of frames(response)) {
        watch();
        heard();
        if (frame.event === "live") this.#take(JSON.parse(frame.data));
        else this.#event(JSON.parse(frame.data));
      }
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
      ended.abort();
    }
  }

  #learn(scopes) {
    this.may = new Set((scopes ?? "").split(" ").filter(Boolean));
    document.body.dataset.may = [...this.may].join(" ");
    this.tell("may");
  }

  #take({ status, samples, strategies, gpus = [] }) {
    this.status = status;
    this.strategies = strategies;
    this.gpus = gpus;
    for (const sample of samples) {
      const known = this.samples.findLastIndex((other) => other.at <= sample.at);
      if (known >= 0 && this.samples[known].at === sample.at) this.samples[known] = sample;
      else this.samples.splice(known + 1, 0, sample);
    }
    const oldest = (this.samples.at(-1)?.at ?? 0) - HOUR;
    while (this.samples.length && this.samples[0].at < oldest) this.samples.shift();
    const made = Object.entries(status.instances).map(([name, seen]) => [name, seen.tokens_total]);
    this.#tokens.push({ at: performance.now() / 1000, made: new Map(made) });
    while (this.#tokens.length > 6) this.#tokens.shift();
    this.enter("live");
    this.tell("status");
  }

  #event(event) {
    if (event.id <= (this.events.at(-1)?.id ?? -1)) return;
    this.events.push(event);
    if (this.events.length > EVENTS) this.events.shift();
    this.lastEvent = event;
    this.tell("event");
  }

  /** Of one instance, over the last few seconds; null where its engine does not tell. */
  tokensPerSecond(name) {
    const told = this.#tokens.filter(({ made }) => typeof made.get(name) === "number");
    if (told.length < 2) return null;
    let gained = 0;
    for (let n = 1; n < told.length; n += 1) {
      const [before, now] = [told[n - 1].made.get(name), told[n].made.get(name)];
      gained += now >= before ? now - before : now;
    }
    return gained / (told.at(-1).at - told[0].at);
  }

  /** The latest sample that says enough: one that has just begun is all noise. */
  now() {
    const [before, latest] = this.samples.slice(-2);
    if (latest === undefined) return before ?? null;
    const late = Date.now() / 1000 - latest.at < this.step / 2;
    return late && latest.at - before.at === this.step ? before : latest;
  }
}

export const store = new Store();
