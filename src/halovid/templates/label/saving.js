// Saving: every change is kept in this browser and sent to the server; it counts as saved when the server has said so.
// One save at a time. A save that may or may not have arrived is sent again under its own id, never anew.

import { showProgress, showSaved } from "./notices.js";
import { ask, insist, wait } from "./server.js";
import { session } from "./session.js";

let unsaved = null; // the newest state that no save was made of
export let sending = null; // promise of the running save
let underway = null; // id of the save that may or may not have arrived

let answerConflict = null; // what is done when another tab has changed the item

export function onConflict(answer) {
  answerConflict = answer;
}

const drafts = () => `halovid ${session.annotator.id} ${session.annotator.name} `; // what the names of all drafts begin with

function keepDraft(draft, item = session.task.item) {
  try {
    if (draft) localStorage.setItem(drafts() + item, JSON.stringify(draft));
    else localStorage.removeItem(drafts() + item);
  } catch { /* a browser that keeps nothing: the server still does */ }
}

function keptDrafts() {
  try {
    const names = Object.keys(localStorage).filter((name) => name.startsWith(drafts()));
    return names.map((name) => [name.slice(drafts().length), JSON.parse(localStorage.getItem(name))]);
  } catch {
    return [];
  }
}

// What an earlier page of this annotator could not send before it was closed.
export async function sendDrafts() {
  for (const [item, draft] of keptDrafts()) {
    const save = { annotator: session.annotator.id, item, state: draft.state, content: draft.content, base: draft.base, save_id: crypto.randomUUID() };
    try {
      await insist("/api/save", save);
    } catch (error) {
      if (error.status !== 409) continue; // of other clips that this address has shown
      const arrived = draft.underway && error.task.save_id === draft.underway; // the save before it, whose answer was lost
      if (arrived) await insist("/api/save", { ...save, base: error.task.revision });
    }
    keepDraft(null, item);
  }
}

export function keep(state = session.task.state) {
  unsaved = { state, content: session.content };
  keepDraft({ ...unsaved, base: session.task.revision, underway });
  if (!sending) showSaved("waiting", "Saving…"); // else it may be told that the server is away
  sending ??= send().finally(() => { sending = null; });
  return sending;
}

const saveOf = ({ state, content }) => ({
  annotator: session.annotator.id, item: session.task.item, state, content, base: session.task.revision, save_id: crypto.randomUUID(),
});

async function send() {
  await wait(150); // strokes of the brush go together
  while (unsaved) {
    const save = saveOf(unsaved);
    underway = save.save_id;
    keepDraft({ ...unsaved, base: session.task.revision, underway });
    unsaved = null;
    try {
      const answer = await insist("/api/save", save);
      underway = null;
      session.task.revision = answer.revision;
      session.task.state = save.state;
      if (!session.moving) showProgress(answer.progress); // on the move it is shown with the next item
    } catch (error) {
      unsaved = underway = null;
      keepDraft(null);
      if (error.status === 409) return answerConflict(error.task);
      showSaved("failing", "Not saved");
      throw error;
    }
  }
  keepDraft(null);
  showSaved("", "✓ Saved");
}

addEventListener("pagehide", () => {
  if (unsaved) ask("/api/save", saveOf(unsaved), { keepalive: true }).catch(() => {});
});
