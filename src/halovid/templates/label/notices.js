// What the page says beside the item: progress, saved or not, trouble.

import { byId } from "./words.js";

export function showProgress({ done, skipped, left }) {
  const total = done + skipped + left;
  byId("bar").setAttribute("aria-valuemax", total);
  byId("bar").setAttribute("aria-valuenow", done + skipped);
  byId("bar").firstElementChild.style.width = `${total ? (100 * (done + skipped)) / total : 100}%`;
  byId("count").textContent = `${done} done${skipped ? `, ${skipped} skipped` : ""}, ${left} left`;
}

export function showSaved(kind, text) {
  byId("saved").className = kind;
  byId("saved").textContent = text;
}

export function showTrouble(text) {
  byId("trouble").hidden = !text;
  byId("trouble").textContent = text || "";
}
