// Buttons and keys.

import { change, isPreferred, prefer, score, touch } from "./content.js";
import { drawCells, drawControls } from "./drawing.js";
import { back, finish, goTo, leave, move, undo } from "./items.js";
import { choosePart, playing, setPlaying, setSpeed, speed, step, toggleGrid, turnPart } from "./player.js";
import { comparing, session } from "./session.js";
import { BRUSH_KEYS, byId, element, facts, H, key, KINDS, MEANING, SEVERITIES, spoken, T, titled, VERDICTS, W } from "./words.js";

function radio(label, value, name, choose, shortcut = null, title = "") {
  const button = element("button", { type: "button", role: "radio", value, title, "aria-label": name }, label);
  if (shortcut) button.append(" ", key(shortcut));
  button.addEventListener("click", choose);
  return button;
}

export function buildControls() {
  Object.entries(KINDS).forEach(([aspect, kinds], row) => {
    const chips = kinds.map((kind, index) => radio(kind, `${aspect}/${kind}`, `${spoken(aspect)}: ${kind}`,
      () => chooseBrush(aspect, kind), BRUSH_KEYS[row]?.[index], MEANING[kind]));
    const name = element("span", { title: MEANING[aspect] }, titled(aspect));
    byId("brushes").append(element("div", { className: "brush-row", "data-aspect": aspect }, name,
      element("div", { className: "chips" }, ...chips)));
  });
  byId("severities").append(...SEVERITIES.map(([value, name, shortcut]) =>
    radio(name, value, name, () => chooseSeverity(value), shortcut)));
  byId("scores").append(...facts.aspects.map((aspect, index) => {
    const digits = [1, 2, 3, 4, 5].map((value) =>
      radio(String(value), value, `${spoken(aspect)} ${value}`, () => score(value, index)));
    const name = element("span", { title: MEANING[aspect] }, titled(aspect));
    return element("div", { className: "score", role: "radiogroup", "aria-label": titled(aspect) }, name,
      element("div", { className: "digits" }, ...digits));
  }));
  byId("verdicts").append(...VERDICTS.map(([value, name, shortcut]) =>
    radio(name, value, `${name === "Equal" ? "Equally good" : `${name} is better`}`,
      () => change({ ...session.content, preference: value }), shortcut)));
  byId("parts").append(
    radio("All time", "all", "all of the time", () => choosePart(null)),
    ...(T > 1 ? Array.from({ length: T }, (_, time) =>
      radio(String(time + 1), time, `part ${time + 1} of ${T}`, () => choosePart(time))) : []),
  );
  byId("parts").title = "Which part of the time to look at and to mark: keys , and .";
}

function chooseBrush(aspect, kind) {
  session.brush = { aspect, kind };
  drawControls();
}

function chooseSeverity(value) {
  session.severity = value;
  drawControls();
}

const CLICKS = {
  play: () => setPlaying(!playing),
  speed: () => setSpeed(speed + 1),
  "grid-button": toggleGrid,
  undo,
  skip: () => leave("skipped"),
  save: finish,
  "end-back": back,
  "end-more": () => move(() => goTo("/api/next")),
  "help-button": () => byId("help").showModal(),
  "help-close": () => byId("help").close(),
};
for (const [id, work] of Object.entries(CLICKS)) byId(id).addEventListener("click", work);

// After a click the keys belong to the page again; who walks by Tab keeps the place.
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button && event.detail > 0) button.blur();
});

// Keys

function moveCursor(dy, dx) {
  session.cursor = { y: (session.cursor.y + dy + H) % H, x: (session.cursor.x + dx + W) % W };
  session.players[0].cells[session.cursor.y * W + session.cursor.x].focus({ preventScroll: true });
  drawCells();
}

const KEYS = {
  ArrowUp: () => moveCursor(-1, 0),
  ArrowDown: () => moveCursor(1, 0),
  ArrowLeft: () => moveCursor(0, -1),
  ArrowRight: () => moveCursor(0, 1),
  Enter: finish,
  n: () => leave("skipped"),
  u: undo,
  p: () => setPlaying(!playing),
  v: () => setSpeed(speed + 1),
  g: toggleGrid,
  j: () => step(-1),
  l: () => step(1),
  ",": () => turnPart(-1),
  ".": () => turnPart(1),
  "?": () => byId("help").showModal(),
};
const RATE_KEYS = {
  " ": () => touch(session.cursor.y, session.cursor.x, 0),
  Backspace: () => { session.currentScore = Math.max(0, session.currentScore - 1); drawControls(); },
  ...Object.fromEntries([1, 2, 3, 4, 5].map((value) => [String(value), () => score(value)])),
  ...Object.fromEntries(SEVERITIES.map(([value, , shortcut]) => [shortcut, () => chooseSeverity(value)])),
  ...Object.fromEntries(Object.entries(KINDS).flatMap(([aspect, kinds], row) => kinds.map((kind, index) =>
    [BRUSH_KEYS[row]?.[index] ?? `${aspect}/${kind}`, () => chooseBrush(aspect, kind)]))),
};
const COMPARE_KEYS = {
  q: () => prefer(session.cursor.y, session.cursor.x, isPreferred(session.cursor.y, session.cursor.x, 1) ? 0 : 1),
  e: () => prefer(session.cursor.y, session.cursor.x, isPreferred(session.cursor.y, session.cursor.x, -1) ? 0 : -1),
  w: () => prefer(session.cursor.y, session.cursor.x, 0),
  ...Object.fromEntries(VERDICTS.map(([value, , shortcut]) => [shortcut, () => change({ ...session.content, preference: value })])),
};

document.addEventListener("keydown", (event) => {
  if (!session.annotator || byId("help").open) return;
  const pressed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const isUndo = pressed === "z" && (event.ctrlKey || event.metaKey);
  if ((event.ctrlKey || event.metaKey || event.altKey) && !isUndo) return;
  const onButton = event.target.closest("button:not(.cell)");
  if (onButton && (pressed === "Enter" || pressed === " ")) return; // the button's own business
  const work = isUndo ? undo : session.task
    ? (comparing() ? COMPARE_KEYS : RATE_KEYS)[pressed] ?? KEYS[pressed]
    : { u: back }[pressed];
  if (!work || (event.repeat && !pressed.startsWith("Arrow"))) return;
  event.preventDefault();
  work();
});

export function buildHelp() {
  const rows = [
    [["←", "↑", "↓", "→"], "move over the patches"],
    ...(comparing()
      ? [[["Q", "E"], "the left, the right clip is better at this patch"], [["W"], "both are equal at this patch"],
        [["1", "2", "3"], "left is better, both are equal, right is better"]]
      : [[["Space"], "mark the patch, or take the mark away; with the mouse: click or drag"],
        [["Q", "W", "…"], "kind of defect, as its button says"], [["Z", "X", "C"], "how bad it is"],
        [["1", "…", "5"], "score the framed aspect of the whole clip, and go to the next one"],
        [["Backspace"], "back to the aspect before"]]),
    [[",", "."], "part of the time to look at and to mark"],
    [["P"], "pause or play"], [["J", "L"], "one frame back, one ahead"], [["V"], "full, half, quarter speed"],
    [["G"], "show or hide grid and marks"],
    [["U"], "undo; at the start of an item, back to the one before"],
    [["N"], "skip what you can't judge"], [["Enter"], "save and go to the next one"],
  ];
  byId("keys").replaceChildren(...rows.flatMap(([names, text]) => [
    element("dt", {}, ...names.flatMap((name) => [element("kbd", {}, name), " "])), element("dd", {}, text)]));
}
