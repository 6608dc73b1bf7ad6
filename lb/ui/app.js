// Puts the page together: which section is shown, whether the cluster can be heard, whether a key is needed.

import * as adapters from "./adapters.js";
import { asking, key } from "./api.js";
import * as audit from "./audit.js";
import { $, put } from "./dom.js";
import * as events from "./events.js";
import { showKey, useLink } from "./key.js";
import * as keys from "./keys.js";
import { store } from "./live.js";
import * as jobs from "./jobs.js";
import * as models from "./models.js";
import * as names from "./names.js";
import * as overview from "./overview.js";
import * as playground from "./playground.js";
import * as usage from "./usage.js";

const SECTIONS = ["overview", "playground", "models", "adapters", "jobs", "aliases", "keys", "usage", "events", "logs", "audit"];

/** Those that are asked for when they are looked at. */
const PARTS = { models, adapters, jobs, aliases: names, keys, usage, audit };

function route(event) {
  const [name, rest] = location.hash.slice(1).split("/");
  if (event && name === "main") { $("main").focus(); return; } // the skip link
  const shown = SECTIONS.includes(name) ? name : "overview";
  let more = null;
  try { more = rest ? decodeURIComponent(rest) : null; } catch { /* no name */ }
  for (const section of SECTIONS) $(section).hidden = section !== shown;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${shown}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (event) scrollTo(0, 0);
  document.querySelector("nav [aria-current]").scrollIntoView({ block: "nearest", inline: "nearest" });
  if (shown === "playground") playground.refresh(more);
  PARTS[shown]?.refresh();
  if (shown === "events") events.showEvents();
  if (shown === "logs") events.showLogs(more ?? undefined); else events.stopLog();
}

const WORDS = { connecting: "connecting", live: "live", locked: "locked", lost: "reconnecting", hidden: "paused" };

function showLink() {
  put($("link"), WORDS[store.link]);
  $("link").className = `link ${store.link}`;
  const [words, button] = $("banner").children;
  const locked = store.link === "locked";
  $("banner").hidden = !locked && store.link !== "lost";
  put(words, locked ? `The cluster is not shown: ${store.reason}. The playground works all the same.`
    : "The cluster does not answer. Trying again …");
  button.hidden = !locked || !store.needsKey;
  showKey(locked && !button.hidden);
}

async function toggleKey() {
  if (key.get() === null) { await asking.ask(false); return; }
  key.set(null);
  store.start(false);
}

store.addEventListener("link", showLink);
$("key").addEventListener("click", toggleKey);
$("banner").lastElementChild.addEventListener("click", toggleKey);
addEventListener("hashchange", async (event) => {
  if (await useLink()) store.start(false); // opened in a tab that shows the page already
  route(event);
});
document.addEventListener("visibilitychange", () => {
  // Browsers open few connections to one server: a tab that nobody sees needs none.
  if (document.hidden) store.pause();
  else if (store.link === "hidden") store.start();
});
overview.start();
events.start();
for (const part of Object.values(PARTS)) part.start();
playground.start();
await useLink();
route();
store.start();
