// Asks for the admin key, where one is set.

import { $ } from "./dom.js";
import { asking, key } from "./api.js";
import { ask } from "./dialog.js";
import { store } from "./live.js";

let open = null;

/** Whether there is another key now; one question at a time, whoever asks. */
asking.ask = (refused) => {
  open ??= question(refused).finally(() => { open = null; });
  return open;
};

async function question(refused) {
  let given = false;
  await ask({
    title: "Admin key",
    text: refused
      ? "That key was refused. The key that the cluster was started with (CLUSTERCTL_ADMIN_KEY) is needed."
      : "This cluster is managed with a key: the one it was started with (CLUSTERCTL_ADMIN_KEY). It is kept in this tab only.",
    action: "Unlock",
    fields: [{ name: "key", label: "Key", type: "password", required: true }],
    run: async (values) => { key.set(values.key); given = true; },
  });
  if (given && store.link === "locked") store.start(); // whoever it was that asked
  return given;
}

export function showKey(needed) {
  $("key").hidden = !needed && key.get() === null;
  $("key").textContent = key.get() === null ? "Enter key" : "Forget key";
}
