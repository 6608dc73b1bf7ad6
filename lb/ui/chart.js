// A small line chart: drawn as SVG, read by pointer, by arrow keys, or by its label.

import { clock, h, put, s } from "./dom.js";

const HEIGHT = 150;
const DAY = 86400; // s
const LEFT = 50, RIGHT = 8, TOP = 8, BOTTOM = 20;

/** 1, 2 or 5 times a power of ten, at least `value`. */
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((n) => n * power).find((bound) => bound >= value * 0.999999);
}

export class Chart {
  #series = [];
  #times = [];
  #from = 0;
  #until = 1;
  #at = null; // index of the time that is read
  #width = 400;

  /** `format(value)` gives words, `time(at)` those of a time (s): of a moment, or of a day (UTC). */
  constructor(title, format, time = clock) {
    Object.assign(this, { title, format, time });
    this.legend = h("ul", { class: "legend" });
    this.svg = s("svg", { "aria-hidden": "true", height: HEIGHT });
    this.tip = h("div", { class: "tip", hidden: true });
    this.plot = h("div", {
      class: "plot", tabindex: "0", role: "group", "aria-roledescription": "chart",
      onpointermove: (event) => this.#point(event), onpointerdown: (event) => this.#point(event),
      onpointerleave: () => this.#read(null), onblur: () => this.#read(null), onkeydown: (event) => this.#key(event),
    }, this.svg, this.tip);
    this.spoken = h("span", { class: "visually-hidden", "aria-live": "polite" });
    this.element = h("figure", { class: "card chart" }, h("figcaption", {}, h("h3", {}, title), this.legend), this.plot, this.spoken);
    new ResizeObserver(() => {
      const width = Math.floor(this.plot.clientWidth);
      if (width > 0 && width !== this.#width) { this.#width = width; this.#draw(); }
    }).observe(this.plot);
  }

  /** `series`: [{name, color, values}], values one for each of `times` (s), null where there is none. */
  show(times, series, from, until) {
    [this.#times, this.#series, this.#from, this.#until] = [times, series, from, until];
    this.#draw();
  }

  #x(time) { return LEFT + ((time - this.#from) / (this.#until - this.#from)) * (this.#width - LEFT - RIGHT); }
  #y(value, top) { return TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM); }

  #draw() {
    const values = this.#series.flatMap((line) => line.values).filter((value) => value !== null);
    const top = ceiling(Math.max(0, ...values));
    this.top = top;
    this.svg.setAttribute("width", this.#width);
    this.svg.setAttribute("viewBox", `0 0 ${this.#width} ${HEIGHT}`);
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      const y = Math.round(this.#y(top * share, top)) + 0.5;
      parts.push(s("line", { class: share ? "grid-line" : "axis", x1: LEFT, x2: this.#width - RIGHT, y1: y, y2: y }));
      parts.push(s("text", { class: "tick", x: LEFT - 6, y: y + 3.5, "text-anchor": "end" }, this.format(top * share)));
    }
    parts.push(...this.#timeTicks());
    for (const line of this.#series) parts.push(...this.#line(line, top));
    this.cursor = s("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
    parts.push(this.cursor);
    this.svg.replaceChildren(...parts);
    this.#legend();
    this.plot.setAttribute("aria-label", this.#summary());
    if (this.#at !== null) this.#read(this.#times.length ? Math.min(this.#at, this.#times.length - 1) : null);
  }

  #timeTicks() {
    const range = this.#until - this.#from, days = this.time !== clock;
    const step = days ? DAY * Math.ceil(range / DAY / Math.max(2, (this.#width - LEFT) / 90)) : range > 1800 ? (this.#width < 420 ? 1200 : 600) : range > 600 ? 300 : 60;
    const ticks = [];
    const zone = days ? 0 : new Date(this.#from * 1000).getTimezoneOffset() * 60;
    for (let time = Math.ceil((this.#from - zone) / step) * step + zone; time <= this.#until; time += step) {
      const x = this.#x(time);
      if (x < LEFT + 14 || x > this.#width - 18) continue;
      ticks.push(s("text", { class: "tick", x, y: HEIGHT - 5, "text-anchor": "middle" }, days ? this.time(time).slice(5) : clock(time).slice(0, 5)));
    }
    return ticks;
  }

  #line({ values, color }, top) {
    const gap = 2.5 * (this.step ?? 10);
    let path = "", before = null;
    const dots = [];
    values.forEach((value, n) => {
      const time = this.#times[n];
      if (value === null || time < this.#from) { before = null; return; }
      const point = `${this.#x(time).toFixed(1)} ${this.#y(value, top).toFixed(1)}`;
      const joined = before !== null && time - before <= gap;
      const goesOn = n + 1 < values.length && values[n + 1] !== null && this.#times[n + 1] - time <= gap;
      path += `${joined ? "L" : "M"}${point}`;
      if (!joined && !goesOn) dots.push(s("circle", { class: `dot c${color}`, cx: this.#x(time), cy: this.#y(value, top), r: 2 }));
      before = time;
    });
    return [s("path", { class: `line c${color}`, d: path }), ...dots];
  }

  #legend() {
    const names = this.#series.map((line) => line.name).join("\n");
    if (this.legend.dataset.names !== names) {
      this.legend.dataset.names = names;
      this.legend.replaceChildren(...this.#series.map((line) => h("li", { class: `c${line.color}` }, line.name)));
    }
  }

  #summary() {
    const words = this.#series.map(({ name, values }) => {
      const known = values.filter((value) => value !== null);
      return known.length ? `${name}: now ${this.format(known.at(-1))}, highest ${this.format(Math.max(...known))}` : `${name}: nothing yet`;
    });
    return `${this.title}. ${words.join("; ")}. The arrow keys read single values.`;
  }

  #point(event) {
    if (!this.#times.length) return;
    const x = event.clientX - this.svg.getBoundingClientRect().left;
    let best = 0;
    this.#times.forEach((time, n) => { if (Math.abs(this.#x(time) - x) < Math.abs(this.#x(this.#times[best]) - x)) best = n; });
    this.#read(best);
  }

  #key(event) {
    const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") { this.#read(null); return; }
    if (!(event.key in moves) || !this.#times.length) return;
    event.preventDefault();
    const first = this.#times.findIndex((time) => time >= this.#from);
    const start = this.#at ?? this.#times.length;
    this.#read(Math.max(first, Math.min(this.#times.length - 1, start + moves[event.key])));
    put(this.spoken, this.tip.textContent);
  }

  #read(at) {
    this.#at = at;
    this.tip.hidden = at === null;
    this.cursor?.setAttribute("visibility", at === null ? "hidden" : "visible");
    if (at === null) return;
    const time = this.#times[at], x = this.#x(time);
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    this.tip.replaceChildren(h("b", {}, this.time(time)), ...this.#series.map((line) => h("span", { class: `c${line.color}` }, ` ${line.name} ${this.format(line.values[at])} `)));
    const right = x > this.#width / 2;
    this.tip.style.left = right ? "auto" : `${x + 8}px`;
    this.tip.style.right = right ? `${this.#width - x + 8}px` : "auto";
  }
}
