// Changing the content: marks, preferences, scores. Every change is drawn and saved.

import { draw, sideOf } from "./drawing.js";
import { showTrouble } from "./notices.js";
import { keep } from "./saving.js";
import { comparing, session } from "./session.js";
import { facts, PLACES, T, W } from "./words.js";

export function change(next) {
  if (!session.task || session.moving || JSON.stringify(next) === JSON.stringify(session.content)) return;
  session.history.push({ content: session.content, currentScore: session.currentScore });
  session.content = next;
  showTrouble(null);
  draw();
  keep().catch((error) => showTrouble(error.message));
}

const patchesAt = (y, x) => {
  const times = session.part === null ? [...Array(T).keys()] : [session.part];
  return times.map((time) => time * PLACES + y * W + x);
};

const isBrush = (mark) => mark.aspect === session.brush.aspect && mark.kind === session.brush.kind && mark.score === session.severity;

export function isPainted(y, x) {
  const marks = session.content.marks.filter(isBrush).map((mark) => mark.patch);
  return patchesAt(y, x).every((patch) => marks.includes(patch));
}

export function paint(y, x, on) {
  const patches = patchesAt(y, x);
  const marks = session.content.marks.filter((mark) => mark.aspect !== session.brush.aspect || !patches.includes(mark.patch));
  if (on) marks.push(...patches.map((patch) => ({ aspect: session.brush.aspect, patch, kind: session.brush.kind, score: session.severity })));
  change({ ...session.content, marks });
}

export function isPreferred(y, x, side) {
  const own = session.content.patches.filter((entry) => entry.preference === side).map((entry) => entry.patch);
  return patchesAt(y, x).every((patch) => own.includes(patch));
}

export function prefer(y, x, side) {
  const patches = patchesAt(y, x);
  const others = session.content.patches.filter((entry) => !patches.includes(entry.patch));
  if (side) others.push(...patches.map((patch) => ({ patch, preference: side })));
  change({ ...session.content, patches: others });
}

export function score(value, index = session.currentScore) {
  change({ ...session.content, scores: { ...session.content.scores, [facts.aspects[index]]: value } });
  session.currentScore = Math.min(index + 1, facts.aspects.length - 1);
  draw();
}

export function touch(y, x, index) {
  session.cursor = { y, x };
  if (!comparing()) paint(y, x, !isPainted(y, x));
  else prefer(y, x, isPreferred(y, x, sideOf(index)) ? 0 : sideOf(index));
}
