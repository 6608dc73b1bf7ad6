// The way to the API: errors in its own words, the admin key where it is asked for, streams by fetch (an EventSource
// cannot send a key).

export const base = new URL("../", document.baseURI);

const KEY = "clusterctl-admin-key"; // in this tab only: sessionStorage

export const key = {
  get: () => { try { return sessionStorage.getItem(KEY); } catch { return memory; } },
  set: (value) => {
    memory = value;
    try { if (value === null) sessionStorage.removeItem(KEY); else sessionStorage.setItem(KEY, value); } catch { /* kept in memory */ }
  },
};
let memory = null;

export class ApiError extends Error {
  constructor(message, status) { super(message); this.status = status; }
}

/** Set by `key.js`: asks for the key, says whether there is another one now. */
export const asking = { ask: async () => false };

/** A response that is fine; `ApiError` for any other, after the key has been asked for if that was missing. */
export async function request(path, { method = "GET", body, headers = {}, signal, managed = true, ask = true } = {}) {
  for (;;) {
    const given = managed ? key.get() : null;
    const sent = { ...headers };
    if (given !== null) sent.Authorization = `Bearer ${toBytes(given)}`;
    if (method !== "GET") sent["Content-Type"] = "application/json";
    let response;
    try {
      const options = { method, headers: sent, signal, cache: "no-store", credentials: "same-origin" };
      if (body !== undefined) options.body = JSON.stringify(body);
      response = await fetch(new URL(path, base), options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("the cluster does not answer", 0);
    }
    if (response.ok) return response;
    const failure = new ApiError(await words(response), response.status);
    if (response.status !== 401 || !managed) throw failure;
    if (key.get() !== given) continue; // another question was answered meanwhile
    if (!ask || !(await asking.ask(given !== null))) throw failure;
  }
}

export async function call(path, options) {
  return (await request(path, options)).json();
}

export const change = (method, path, body) => call(path, { method, body });

/** Header values are bytes; fetch takes one character for each. */
function toBytes(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

async function words(response) {
  let text = "";
  try {
    text = await response.text();
    const message = JSON.parse(text).error?.message;
    if (message) return message;
  } catch { /* no JSON */ }
  return text.slice(0, 300) || `the cluster answered ${response.status}`;
}

/** The events of a stream: {id, event, data}, data as text. */
export async function* frames(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const parts = rest.split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const frame = { id: "", event: "message", data: "" };
        for (const line of part.split(/\r?\n/)) {
          const colon = line.indexOf(":");
          if (colon <= 0) continue;
          const name = line.slice(0, colon);
          const text = line.slice(colon + 1).replace(/^ /, "");
          if (name === "data") frame.data += (frame.data ? "\n" : "") + text;
          else frame[name] = text;
        }
        if (frame.data) yield frame;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
