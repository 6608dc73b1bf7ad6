// Two models side by side: what they answer, and how fast.

import { call, frames, request } from "./api.js";
import { showCode } from "./dialog.js";
import { $, count, h, millis, put, rate } from "./dom.js";
import { curl, python } from "./snippets.js";

class Pane {
  messages = []; // of this conversation: {role, content}
  #stop = null;

  constructor(side) {
    this.side = side;
    const id = `model-${side}`;
    this.model = h("select", { id, class: "model" });
    this.model.addEventListener("change", () => { this.clear(); });
    this.talk = h("div", { class: "talk", tabindex: "0", "aria-label": `Conversation ${side}`, role: "log" });
    this.numbers = h("p", { class: "numbers", "data-numbers": side });
    this.element = h("article", { class: "card pane", "data-pane": side },
      h("div", { class: "card-head" }, h("label", { class: "inline grow", for: id }, h("span", { class: "visually-hidden" }, `Model ${side}`), this.model),
        h("button", { type: "button", onclick: () => showCode(`${this.model.value} with curl`, curl(this.asked())) }, "curl"),
        h("button", { type: "button", onclick: () => showCode(`${this.model.value} with Python`, python(this.asked())) }, "Python")),
      this.talk, this.numbers);
    this.clear();
  }

  /** The request as it would be sent now. */
  asked(prompt = $("prompt").value.trim()) {
    const system = $("system").value.trim();
    const messages = [...this.messages];
    if (prompt) messages.push({ role: "user", content: prompt });
    else if (messages.at(-1)?.role === "assistant") messages.pop();
    if (!messages.length) messages.push({ role: "user", content: "What is clusterctl?" });
    if (system) messages.unshift({ role: "system", content: system });
    const body = { model: this.model.value, messages };
    const temperature = Number.parseFloat($("temperature").value), most = Number.parseInt($("max-tokens").value, 10);
    if (Number.isFinite(temperature)) body.temperature = temperature;
    if (Number.isInteger(most)) body.max_tokens = most;
    return body;
  }

  clear() {
    this.stop();
    this.messages = [];
    this.talk.replaceChildren(h("p", { class: "empty" }, "The answer appears here, as it is made."));
    put(this.numbers, "");
  }

  stop() { this.#stop?.abort(); }

  async send(prompt) {
    const own = this.#stop = new AbortController();
    const messages = this.messages; // of a conversation that was cleared meanwhile nothing is shown or sent any more
    const body = { ...this.asked(prompt), stream: true, stream_options: { include_usage: true } };
    if (!this.messages.length) this.talk.replaceChildren();
    const bubble = h("div", { class: "bubble answer", "aria-busy": "true" });
    this.talk.append(h("div", { class: "bubble" }, prompt), bubble);
    this.talk.scrollTop = this.talk.scrollHeight;
    const began = performance.now();
    const seen = { began, first: null, last: null, chunks: 0, tokens: null, text: "", end: "" };
    try {
      const response = await request("v1/chat/completions", { method: "POST", body, signal: own.signal });
      for await (const { data } of frames(response)) {
        if (data === "[DONE]") { seen.end ||= "done"; break; }
        this.#take(JSON.parse(data), seen, bubble);
      }
      if (!seen.end) throw new Error("the answer broke off");
    } catch (error) {
      if (own.signal.aborted) seen.end = "stopped";
      else { seen.end = "failed"; this.talk.append(h("p", { class: "error", role: "alert" }, error.message)); }
    }
    if (messages !== this.messages) return;
    bubble.removeAttribute("aria-busy");
    this.#tell(seen);
    if (seen.text) messages.push({ role: "user", content: prompt }, { role: "assistant", content: seen.text });
    this.talk.scrollTop = this.talk.scrollHeight;
  }

  #take(chunk, seen, bubble) {
    if (chunk.error) throw new Error(chunk.error.message ?? "the answer broke off");
    if (chunk.usage) seen.tokens = chunk.usage.completion_tokens;
    const choice = chunk.choices?.[0];
    if (choice?.finish_reason) seen.end = choice.finish_reason;
    const text = choice?.delta?.content ?? choice?.delta?.reasoning_content ?? "";
    if (!text) return;
    seen.last = performance.now();
    seen.first ??= seen.last;
    seen.chunks += 1;
    seen.text += text;
    const atEnd = this.talk.scrollTop + this.talk.clientHeight >= this.talk.scrollHeight - 40;
    bubble.append(text);
    if (atEnd) this.talk.scrollTop = this.talk.scrollHeight;
    this.#tell(seen);
  }

  /** Tokens a second are those after the first: what comes before it is waiting. */
  #tell({ began, first, last, chunks, tokens, end }) {
    if (first === null) { put(this.numbers, end === "stopped" ? "stopped before the first token" : ""); return; }
    const made = tokens ?? chunks, seconds = (last - first) / 1000;
    const parts = [`first token ${millis(first - began)}`];
    if (made > 1 && seconds > 0) parts.push(`${rate((made - 1) / seconds)} tokens/s`);
    parts.push(`${count(made)} tokens in ${millis(last - began)}`);
    if (end === "length") parts.push("cut at max tokens");
    if (end === "stopped") parts.push("stopped");
    put(this.numbers, parts.join(" · "));
  }
}

const panes = [];

function layout() {
  const both = $("compare").checked;
  panes[1].element.hidden = !both;
  $("panes").classList.toggle("two", both);
}

const EVERY = 5000; // ms between two looks at what is served
let timer = null;

export async function refresh(wanted = null) {
  clearTimeout(timer);
  if ($("playground").hidden) return;
  timer = setTimeout(refresh, EVERY);
  let models;
  try {
    models = (await call("v1/models")).data;
  } catch (error) {
    put(panes[0].numbers, error.message);
    return;
  }
  const bases = models.filter((m) => !m.parent).map((m) => m.id), adapters = models.filter((m) => m.parent).map((m) => m.id);
  const every = [...bases, ...adapters];
  // Two adapters are what there is to compare; else an adapter and what it was made from.
  const first = adapters.length > 1 ? adapters : [...bases.slice(0, 1), ...adapters, ...bases.slice(1)];
  panes.forEach((pane, n) => {
    const chosen = n === 0 && wanted && every.includes(wanted) ? wanted : pane.model.value;
    const groups = [["Base model", bases], ["Adapters", adapters]].filter(([, names]) => names.length);
    if ([...pane.model.options].map((o) => o.value).join("\n") !== every.join("\n")) {
      pane.model.replaceChildren(...groups.map(([label, names]) => h("optgroup", { label }, ...names.map((name) => h("option", { value: name }, name)))));
    }
    const before = pane.model.value;
    pane.model.value = every.includes(chosen) ? chosen : first[Math.min(n, first.length - 1)] ?? "";
    if (chosen && chosen !== before && pane.model.value !== chosen) pane.clear();
  });
}

async function send(event) {
  event.preventDefault();
  const prompt = $("prompt").value.trim();
  if (!prompt || $("send").disabled) return;
  const asked = panes.filter((pane) => !pane.element.hidden);
  $("send").disabled = true;
  $("stop").disabled = false;
  $("prompt").value = "";
  await Promise.all(asked.map((pane) => pane.send(prompt)));
  $("send").disabled = false;
  $("stop").disabled = true;
}

export function start() {
  panes.push(new Pane("A"), new Pane("B"));
  $("panes").append(...panes.map((pane) => pane.element));
  $("ask").addEventListener("submit", send);
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("ask").requestSubmit(); }
  });
  $("stop").addEventListener("click", () => panes.forEach((pane) => pane.stop()));
  $("clear").addEventListener("click", () => panes.forEach((pane) => pane.clear()));
  $("compare").addEventListener("change", layout);
  layout();
}
