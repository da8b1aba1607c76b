// The start: who labels, and what.

import { buildControls, buildHelp } from "./controls.js";
import { goTo } from "./items.js";
import { playing, setPlaying } from "./player.js";
import { sendDrafts } from "./saving.js";
import { ask } from "./server.js";
import { comparing, session } from "./session.js";
import { byId } from "./words.js";

byId("join").addEventListener("submit", async (event) => {
  event.preventDefault();
  byId("refusal").hidden = true;
  try {
    const joined = await ask("/api/join", { name: byId("name").value });
    session.mode = new FormData(event.target).get("mode");
    session.annotator = { id: joined.annotator, name: joined.name };
    byId("who").textContent = session.annotator.name;
    byId("task-name").textContent = comparing() ? "compares clips" : "rates clips";
    byId("rating").hidden = comparing();
    byId("comparing").hidden = !comparing();
    buildHelp();
    setPlaying(playing);
    byId("start").hidden = true;
    document.activeElement?.blur();
    await sendDrafts();
    await goTo("/api/next");
  } catch (error) {
    session.annotator = null;
    byId("start").hidden = false;
    byId("refusal").textContent = error.message;
    byId("refusal").hidden = false;
  }
});

buildControls();
