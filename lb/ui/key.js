// Asks for the admin key, where one is set.

import { $ } from "./dom.js";
import { asking, call, key } from "./api.js";
import { ask, toast } from "./dialog.js";
import { store } from "./live.js";

let open = null;

/** Whether there is another key now; one question at a time, whoever asks. */
asking.ask = (refused) => {
  open ??= found(refused).finally(() => { open = null; });
  return open;
};

/** The cluster's owner needs no key to manage it, but models may ask for one: what a link leads to will do. */
async function found(refused) {
  if (refused) return question(true);
  try {
    const link = await call("v1/cluster/ui/link", { method: "POST", body: {}, ask: false });
    await redeem(link.code);
    return true;
  } catch {
    return question(false);
  }
}

async function question(refused) {
  let given = false;
  await ask({
    title: "Admin key",
    text: refused
      ? "That key was refused. The key that the cluster was started with (CLUSTERCTL_ADMIN_KEY) is needed, or a new link from `clusterctl ui`."
      : "This cluster is managed with a key: the one it was started with (CLUSTERCTL_ADMIN_KEY). It is kept in this tab only. `clusterctl ui` prints a link that needs none.",
    action: "Unlock",
    fields: [{ name: "key", label: "Key", type: "password", required: true }],
    run: async (values) => { key.set(values.key); given = true; },
  });
  if (given && store.link === "locked") store.start(); // whoever it was that asked
  return given;
}

/** A link from `clusterctl ui` ends in a code that is good once: exchanged for a key of this tab. Whether it was. */
export async function useLink() {
  const code = /^#code=([\w-]+)$/.exec(location.hash)?.[1];
  if (code === undefined) return false;
  history.replaceState(null, "", location.pathname + location.search); // a used code is of no use to the history
  try {
    await redeem(code);
    return true;
  } catch (error) {
    toast(error.message);
    return false;
  }
}

async function redeem(code) {
  const path = "v1/cluster/ui/session";
  key.set((await call(path, { method: "POST", body: { code }, managed: false })).token);
}

export function showKey(needed) {
  $("key").hidden = !needed && key.get() === null;
  $("key").textContent = key.get() === null ? "Enter key" : "Forget key";
}
