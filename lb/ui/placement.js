// Adapters x workers: where each belongs, where it is, and where it is busy.

import { $, count, h, keyed, put } from "./dom.js";

const MOST = 200; // rows: the busiest come first

/** Draws what `v1/cluster/placement` says. */
export function draw({ strategy, workers, adapters, left_out: left }) {
  const ids = Object.keys(workers);
  const rows = adapters.slice(0, MOST);
  const most = Math.max(1, ...rows.flatMap(({ on }) => Object.values(on).map(({ active }) => active)));
  const table = $("placement-table");
  keyed(table.tHead.rows[0], ["", ...ids], (id) => id, (id) => h("th", { scope: "col" }, id ? null : "Adapter"), (th, id) => {
    if (id) put(th, workers[id].slots === null ? id : `${id} · ${workers[id].slots} slots`);
  });
  keyed(table.tBodies[0], rows, ({ lora_name: name }) => name, ({ lora_name: name }) => h("tr", {}, h("th", { scope: "row" }, name)), (tr, adapter) => {
    put(tr.cells[0], adapter.rank === null ? adapter.lora_name : `${adapter.lora_name} · rank ${adapter.rank}`);
    fill(tr, adapter, ids, most);
  });
  const more = left + adapters.length - rows.length;
  put($("placement-words"), [
    `Strategy ${strategy}.`, more ? `${count(more)} quieter adapters are not shown.` : "",
    rows.some(({ on }) => Object.values(on).some((cell) => cell.resident)) ? "" : "No adapter is known to be in a slot: the strategy adaptive follows that.",
  ].filter(Boolean).join(" "));
  $("placement").hidden = !rows.length || !ids.length;
}

function fill(tr, { lora_name: name, on }, ids, most) {
  const cells = [...tr.cells].slice(1);
  for (const extra of cells.splice(ids.length)) extra.remove();
  while (cells.length < ids.length) {
    cells.push(h("td", {}));
    tr.append(cells.at(-1));
  }
  ids.forEach((id, n) => {
    const cell = on[id];
    const words = said(cell);
    put(cells[n], cell?.active ? count(cell.active) : "");
    cells[n].className = ["spot", cell?.home ? "is-home" : "", cell?.resident ? "is-resident" : cell?.held ? "is-held" : ""].filter(Boolean).join(" ");
    cells[n].dataset.heat = cell?.active ? Math.max(1, Math.round((4 * cell.active) / most)) : 0;
    cells[n].title = `${name} on ${id}: ${words}`;
    cells[n].setAttribute("aria-label", words);
  });
}

function said(cell) {
  if (!cell) return "not there";
  const where = cell.resident ? "in a slot" : cell.held ? "in host memory" : "not there";
  return [where, cell.home ? "at home" : "", cell.active ? `${count(cell.active)} requests under way` : ""].filter(Boolean).join(", ");
}
