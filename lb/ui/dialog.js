// One dialog for every question: it stays open, with the reason in words, when what was asked for fails.

import { $, h, put } from "./dom.js";

/**
 * `fields`: {name, label, type: text|password|textarea|checkbox|select, value, options, required, help}; `run(values)` does it, and
 * may return a sentence to show. Resolves to whether it was done.
 */
export function ask({ title, text = "", action, danger = false, fields = [], run }) {
  const dialog = $("dialog");
  if (dialog.open) return Promise.resolve(false);
  const form = dialog.querySelector("form");
  const go = $("dialog-go");
  const inputs = fields.map(field);
  put($("dialog-title"), title);
  put($("dialog-text"), text);
  $("dialog-fields").replaceChildren(...inputs.map(([row]) => row));
  $("dialog-error").hidden = true;
  put($("dialog-error"), "");
  go.textContent = action;
  go.disabled = false; // whatever is still asked for by a dialog that was cancelled
  go.className = danger ? "danger" : "primary";
  const opener = document.activeElement;
  return new Promise((resolve) => {
    const done = new AbortController();
    const signal = done.signal;
    const finish = (result) => {
      done.abort();
      if (dialog.open) dialog.close();
      $("dialog-fields").replaceChildren(); // no key stays in the page
      if (opener?.isConnected) opener.focus();
      resolve(result);
    };
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (go.disabled) return;
      go.disabled = true;
      $("dialog-error").hidden = true;
      try {
        const said = await run(Object.fromEntries(inputs.map(([, name, value]) => [name, value()])));
        if (!signal.aborted) {
          go.disabled = false;
          finish(true);
        }
        if (said) toast(said);
      } catch (error) {
        // Cancelled meanwhile: what is open now is about something else.
        if (signal.aborted) { toast(error.message); return; }
        go.disabled = false;
        put($("dialog-error"), error.message);
        $("dialog-error").hidden = false;
      }
    }, { signal });
    $("dialog-cancel").addEventListener("click", () => finish(false), { signal });
    dialog.addEventListener("cancel", (event) => { event.preventDefault(); finish(false); }, { signal });
    // That of the question before comes after its dialog has closed, and may find this one open.
    dialog.addEventListener("close", () => { if (!dialog.open) finish(false); }, { signal });
    dialog.showModal();
    (inputs[0]?.[3] ?? go).focus();
  });
}

function field({ name, label, type = "text", value = "", options = [], required = false, help = "" }) {
  const id = `dialog-${name}`;
  let input;
  if (type === "select") {
    input = h("select", { id }, ...options.map(([key, words]) => h("option", { value: key }, words)));
    input.value = value;
  } else if (type === "textarea") {
    input = h("textarea", { id, required, rows: 8, autocomplete: "off", spellcheck: "false" });
    input.value = value;
  } else {
    input = h("input", { id, type, required, autocomplete: "off", spellcheck: "false" });
    if (type === "checkbox") input.checked = Boolean(value);
    else input.value = value;
  }
  const words = h("label", { for: id }, label);
  const row = type === "checkbox" ? h("div", { class: "field check" }, input, words) : h("div", { class: "field" }, words, input);
  if (help) {
    input.setAttribute("aria-describedby", `${id}-help`);
    row.append(h("small", { id: `${id}-help`, class: "dim" }, help));
  }
  return [row, name, () => (type === "checkbox" ? input.checked : input.value.trim()), input];
}

export function toast(text) {
  const shown = h("div", { class: "toast" }, text);
  $("toasts").append(shown);
  setTimeout(() => shown.remove(), 6000);
}

/** Shows code that can be copied, with a sentence about it. */
export function showCode(title, text, note = "") {
  put($("code-title"), title);
  put($("code-note"), note);
  $("code-text").textContent = text;
  $("code-copy").textContent = "Copy";
  $("code").showModal();
}

$("code").addEventListener("close", () => { $("code-text").textContent = ""; }); // it may have been a secret
$("code-close").addEventListener("click", () => $("code").close());
$("code-copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("code-text").textContent);
  } catch { // not over plain http from elsewhere
    getSelection().selectAllChildren($("code-text"));
    document.execCommand("copy");
  }
  $("code-copy").textContent = "Copied";
});
