// Drawing: cells and buttons show what the session holds.

import { comparing, partShown, session } from "./session.js";
import { byId, element, facts, KINDS, PLACES, SEVERITIES, spoken, T, W } from "./words.js";

export const sideOf = (index) => (index === 0 ? 1 : -1); // the left clip is the first

export function draw() {
  drawCells();
  drawControls();
}

export function drawCells() {
  if (!session.task || !session.players.length) return;
  session.partDrawn = partShown();
  const bare = byId("grid-button").getAttribute("aria-pressed") !== "true";
  for (const button of byId("parts").children) button.classList.toggle("now", Number(button.value) === session.partDrawn);
  session.players.forEach(({ grid, cells, screen }, index) => {
    grid.classList.toggle("bare", bare);
    screen.classList.toggle("chosen", comparing() && session.content.preference === sideOf(index));
    cells.forEach((cell, place) => drawCell(cell, place, index));
  });
}

function drawCell(cell, place, index) {
  const y = Math.floor(place / W), x = place % W;
  const patch = session.partDrawn * PLACES + place;
  const marks = comparing() ? preferenceMarks(patch, index) : defectMarks(patch);
  const isCursor = y === session.cursor.y && x === session.cursor.x;
  cell.classList.toggle("cursor", isCursor);
  cell.tabIndex = isCursor && index === 0 ? 0 : -1;
  cell.setAttribute("aria-pressed", marks.length > 0);
  cell.setAttribute("aria-label", `row ${y + 1}, column ${x + 1}: ${marks.map((mark) => mark.title).join(", ") || "no mark"}`);
  cell.replaceChildren(...marks, ...timesOf(place));
}

function defectMarks(patch) {
  const order = Object.keys(KINDS);
  return session.content.marks
    .filter((mark) => mark.patch === patch)
    .sort((a, b) => order.indexOf(a.aspect) - order.indexOf(b.aspect))
    .map((mark) => element("span", {
      className: "mark",
      "data-aspect": mark.aspect,
      "data-score": mark.score,
      title: `${spoken(mark.aspect)}, ${mark.kind}, ${SEVERITIES.find(([value]) => value === mark.score)?.[1] ?? mark.score}`,
    }, element("b", {}, mark.kind)));
}

function preferenceMarks(patch, index) {
  const entry = session.content.patches.find((own) => own.patch === patch);
  if (!entry) return [];
  const better = entry.preference === sideOf(index);
  return [element("span", { className: better ? "mark better" : "mark worse", title: better ? "better here" : "worse here" },
    ...(better ? [element("b", {}, "better")] : []))];
}

function timesOf(place) { // a dot for each part of the time, full where something is marked
  const marked = new Set((comparing() ? session.content.patches : session.content.marks).map((own) => own.patch));
  const on = Array.from({ length: T }, (_, time) => marked.has(time * PLACES + place));
  if (T === 1 || !on.includes(true)) return [];
  return [element("span", { className: "times", ariaHidden: "true" }, ...on.map((one) => element("i", { className: one ? "on" : "" })))];
}

function check(group, chosen) { // of a group of radio buttons
  for (const button of byId(group).querySelectorAll("[role=radio]")) {
    button.setAttribute("aria-checked", chosen(button));
  }
}

export function drawControls() {
  const used = new Set((comparing() ? session.content.patches : session.content.marks).map((own) => Math.floor(own.patch / PLACES)));
  check("parts", (button) => button.value === String(session.part ?? "all"));
  for (const button of byId("parts").children) button.classList.toggle("marked", used.has(Number(button.value)));
  check("brushes", (button) => button.value === `${session.brush.aspect}/${session.brush.kind}`);
  check("severities", (button) => Number(button.value) === session.severity);
  if (comparing()) return check("verdicts", (button) => session.content.preference !== null && Number(button.value) === session.content.preference);
  facts.aspects.forEach((aspect, index) => {
    const row = byId("scores").children[index];
    row.classList.toggle("current", index === session.currentScore);
    for (const button of row.querySelectorAll("button")) {
      button.setAttribute("aria-checked", session.content.scores[aspect] === Number(button.value));
    }
  });
}
