// From item to item, and back.

import { draw } from "./drawing.js";
import { showProgress, showSaved, showTrouble } from "./notices.js";
import { buildScreens, stopPlayers } from "./player.js";
import { keep, onConflict, sending } from "./saving.js";
import { insist } from "./server.js";
import { comparing, session } from "./session.js";
import { byId, EMPTY, facts, spoken } from "./words.js";

export async function goTo(path, extra = {}) {
  const answer = await insist(path, { annotator: session.annotator.id, mode: session.mode, ...extra });
  showProgress(answer.progress);
  if (answer.task) show(answer.task);
  else if (path === "/api/next") showEnd(answer.progress);
  else showTrouble("This is the first one.");
}

export async function move(work) {
  if (session.moving) return;
  session.moving = true;
  byId("save").disabled = byId("skip").disabled = true;
  try {
    await work();
  } catch (error) {
    showTrouble(error.message);
  } finally {
    session.moving = false;
    byId("save").disabled = byId("skip").disabled = false;
  }
}

export const leave = (state) => move(async () => {
  const mine = session.task; // another object when it turns out that another tab has changed it
  await keep(state);
  if (session.task === mine && session.task.state === state) await goTo("/api/next");
});

export function finish() {
  const missing = comparing()
    ? (session.content.preference === null ? "Say which clip is better first." : null)
    : missingScore();
  if (missing) return showTrouble(missing);
  return leave("done");
}

function missingScore() {
  const index = facts.aspects.findIndex((aspect) => !(aspect in session.content.scores));
  if (index < 0) return null;
  session.currentScore = index;
  draw();
  return `Score ${spoken(facts.aspects[index])} first.`;
}

export function back() {
  return move(async () => {
    if (sending) await sending;
    await goTo("/api/previous", { before: session.task && byId("end").hidden ? session.task.item : null });
  });
}

function show(given, trouble = null) {
  const samePlace = session.task && session.task.item === given.item;
  session.task = given;
  session.content = { ...EMPTY[session.mode], ...given.content };
  session.history = [];
  session.part = samePlace ? session.part : null;
  session.currentScore = Math.max(0, facts.aspects.findIndex((aspect) => !comparing() && !(aspect in session.content.scores)));
  byId("end").hidden = true;
  byId("work").hidden = false;
  byId("prompt").textContent = given.prompt;
  if (!samePlace) buildScreens();
  draw();
  showTrouble(trouble);
  showSaved("", given.revision ? "✓ Saved" : "");
}

function showEnd({ done, skipped }) {
  stopPlayers();
  session.task = null;
  byId("work").hidden = true;
  byId("end").hidden = false;
  byId("end-count").textContent = `${done} done, ${skipped} skipped by ${session.annotator.name}.`;
  byId("end-back").hidden = done + skipped === 0;
}

export function undo() {
  if (session.moving) return;
  if (!session.task || !session.history.length) return back();
  Object.assign(session, session.history.pop());
  showTrouble(null);
  draw();
  keep().catch((error) => showTrouble(error.message));
}

onConflict((task) => show(task, "This was changed in another tab; here is what was saved there."));
