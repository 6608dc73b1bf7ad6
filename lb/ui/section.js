// What a section shows is asked for when it is looked at, now and then, and when something has changed; what may not be
// seen is not asked for, and says why.

import { call } from "./api.js";
import { $, put } from "./dom.js";
import { store } from "./live.js";

const SOON = 150; // ms: what changes together is looked at once

export class Section {
  #timer = null;
  #asked = 0;

  /**
   * `load()` gets what `show(found)` draws, which may return a sentence about it. `needs`: the scope that sees it; `every`:
   * ms between two looks; `events`: kinds of events after which another look is worth it. In the page the section has an
   * `.empty` for words; all that is `.content` is for those who may.
   */
  constructor(id, load, show, { needs = "read", every = 0, events = null } = {}) {
    Object.assign(this, { element: $(id), load, show, needs, every, events });
  }

  start() {
    for (const what of ["link", "may"]) store.addEventListener(what, () => this.refresh());
    if (this.events) store.addEventListener("event", () => { if (this.events.test(store.lastEvent.kind)) this.#later(SOON); });
  }

  say(text) {
    const place = this.element.querySelector(".empty");
    place.hidden = !text;
    put(place, text);
  }

  async refresh() {
    clearTimeout(this.#timer);
    if (this.element.hidden) return;
    const number = this.#asked += 1;
    const barred = this.#barred();
    if (barred !== null) { this.#reveal(false); this.say(barred); return; }
    try {
      const found = await this.load(call);
      if (number !== this.#asked) return;
      this.#reveal(true);
      this.say(this.show(found) ?? "");
    } catch (error) {
      if (number !== this.#asked) return;
      if (error.status === 401 || error.status === 403) this.#reveal(false);
      this.say(error.message);
    }
    if (this.every) this.#later(this.every);
  }

  /** Why it is not shown, null if it is. */
  #barred() {
    if (store.link === "locked") return `This is not shown: ${store.reason}.`;
    if (store.may === null) return store.link === "lost" ? "The cluster does not answer." : "";
    if (store.may.has(this.needs)) return null;
    return `This is for keys of the scope ${this.needs}; the one that this page has is for: ${[...store.may].join(", ") || "nothing"}.`;
  }

  #reveal(may) {
    for (const part of this.element.querySelectorAll(".content")) part.hidden = !may;
  }

  #later(wait) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.refresh(), wait);
  }
}

/** Of a table: cells by their labels, the first a head; `right`: which are numbers. */
export function cells(make, labels, right = []) {
  return labels.map((label, n) => make(n ? "td" : "th", {
    scope: n ? null : "row", class: right.includes(label) ? "n" : null, "data-label": label,
  }));
}
