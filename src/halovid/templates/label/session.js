// What all parts of the page share. What an annotator does becomes `content`, an immutable value.

import { KINDS } from "./words.js";

export const session = {
  annotator: null, // { id, name }
  mode: "rate",
  task: null, // what the server gave
  content: null,
  history: [], // earlier contents of this item, and the aspects that were to be scored then
  part: null, // the part of the time that is looked at and marked; null is all of it
  cursor: { y: 0, x: 0 },
  brush: { aspect: Object.keys(KINDS)[0], kind: Object.values(KINDS)[0][0] },
  severity: 2,
  currentScore: 0,
  moving: false, // on the way to another item
  players: [], // { clip, video, cells, grid, screen }
  partDrawn: null,
};

export const comparing = () => session.mode === "compare";

export const frameOf = ({ video, clip }) => Math.min(Math.floor(video.currentTime * clip.fps + 0.01), clip.num_frames - 1);

export const partShown = () => session.part ?? session.players[0].clip.frame_to_part[frameOf(session.players[0])];
