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

const draftName = () => `halovid ${session.annotator.id} ${session.annotator.name} ${session.task.item}`;

function keepDraft(draft) {
  try {
    if (draft) localStorage.setItem(draftName(), JSON.stringify(draft));
    else localStorage.removeItem(draftName());
  } catch { /* a browser that keeps nothing: the server still does */ }
}

export function takeDraft() {
  try {
    const draft = JSON.parse(localStorage.getItem(draftName()));
    // made of what the server has, or of what it had before a save whose answer was lost
    return draft && (draft.base === session.task.revision || (draft.underway && draft.underway === session.task.save_id)) ? draft : null;
  } catch {
    return null;
  }
}

export function keep(state = session.task.state) {
  unsaved = { state, content: session.content };
  keepDraft({ ...unsaved, base: session.task.revision, underway });
  showSaved("waiting", "Saving…");
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
