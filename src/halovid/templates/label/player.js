// The clips: their screens, and the clock by which they play.

import { isPainted, paint, touch } from "./content.js";
import { draw, drawCells } from "./drawing.js";
import { comparing, frameOf, partShown, session } from "./session.js";
import { byId, element, H, PLACES, SPEEDS, T, W } from "./words.js";

export let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
let gathering = false; // between two laps: waiting until all clips are at the start
export let speed = 0;

export function buildScreens() {
  stopPlayers();
  session.players = session.task.clips.map(buildScreen);
  byId("screens").replaceChildren(...session.players.map(({ screen }, index) => element("figure", {},
    ...(comparing() ? [element("figcaption", {}, ["Left", "Right"][index])] : []), screen)));
  byId("play").hidden = byId("speed").hidden = session.task.clips.every((clip) => clip.is_picture);
  session.partDrawn = null;
  layout();
  gathering = false;
  if (playing) gather();
  else seek(range()[0]);
}

function buildScreen(clip, index) {
  const video = clip.is_picture ? buildPicture(clip)
    : element("video", { src: clip.url, muted: true, playsInline: true, preload: "auto", disablePictureInPicture: true });
  video.setAttribute("aria-label", comparing() ? ["Left clip", "Right clip"][index] : "Clip");
  const grid = element("div", { className: "grid", role: "group", "aria-label": `Patches${comparing() ? [" of the left clip", " of the right clip"][index] : ""}` });
  grid.style.gridTemplate = `repeat(${H}, minmax(0, 1fr)) / repeat(${W}, minmax(0, 1fr))`;
  const cells = Array.from({ length: PLACES }, (_, place) => buildCell(Math.floor(place / W), place % W, index));
  grid.append(...cells);
  const failure = element("p", { className: "failure", hidden: true }, "This clip can't be played here: skip it.");
  const screen = element("div", { className: "screen" }, video, grid, failure);
  video.addEventListener("error", () => { failure.hidden = false; });
  video.addEventListener(clip.is_picture ? "load" : "loadedmetadata", layout);
  return { clip, video, grid, cells, screen };
}

// A picture is a video whose only frame is always there.
const buildPicture = (clip) => Object.assign(element("img", { src: clip.url, alt: "" }), {
  currentTime: 0, ended: true, seeking: false, readyState: HTMLMediaElement.HAVE_ENOUGH_DATA,
  play: async () => {}, pause: () => {}, load: () => {},
});

let stroke = null; // while the mouse is down: whether it marks, or takes marks away

function buildCell(y, x, index) {
  const cell = element("button", { type: "button", className: "cell", tabIndex: -1 });
  cell.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !session.task) return;
    event.preventDefault();
    cell.releasePointerCapture?.(event.pointerId); // so that a finger paints too
    if (!comparing()) stroke = !isPainted(y, x);
    touch(y, x, index);
  });
  cell.addEventListener("pointerenter", () => {
    if (stroke === null || !session.task) return;
    session.cursor = { y, x };
    paint(y, x, stroke);
  });
  cell.addEventListener("focus", () => { session.cursor = { y, x }; drawCells(); });
  cell.addEventListener("click", (event) => { if (event.detail === 0) touch(y, x, index); }); // not by a pointer
  return cell;
}

for (const name of ["pointerup", "pointercancel", "blur"]) addEventListener(name, () => { stroke = null; });

function layout() {
  if (!session.players.length || byId("work").hidden) return;
  const stage = document.querySelector(".stage");
  const room = stage.clientWidth / session.players.length - (session.players.length > 1 ? 6 : 0);
  const below = document.querySelector(".clock").offsetHeight + 40;
  const caption = comparing() ? 28 : 0;
  const height = Math.max(260, innerHeight - stage.getBoundingClientRect().top - scrollY - below - caption);
  for (const { clip, video, screen } of session.players) {
    const width = Math.min(room, (height * clip.width) / clip.height);
    screen.style.width = `${Math.floor(width)}px`;
    screen.style.aspectRatio = `${clip.width} / ${clip.height}`;
    video.classList.toggle("coarse", 2 * clip.width <= width * devicePixelRatio);
  }
}
addEventListener("resize", layout);

// The clock: all clips begin each lap together

const range = () => (session.part === null ? [0, session.task.clips[0].num_frames - 1] : session.task.clips[0].parts[session.part]);

function seek(frame) {
  for (const { video, clip } of session.players) video.currentTime = (Math.min(frame, clip.num_frames - 1) + 0.5) / clip.fps;
}

function gather() {
  gathering = true;
  for (const { video } of session.players) video.pause();
  seek(range()[0]);
}

function isLapOver({ video, clip }) {
  const last = session.part === null ? clip.num_frames - 1 : clip.parts[session.part][1];
  return video.ended || frameOf({ video, clip }) > last;
}

function startLap() {
  if (session.players.some(({ video }) => video.seeking || video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA)) return;
  gathering = false;
  for (const { video } of session.players) {
    video.playbackRate = SPEEDS[speed];
    video.play().catch((error) => {
      if (error.name === "NotAllowedError") setPlaying(false);
    });
  }
}

function tick() {
  requestAnimationFrame(tick);
  if (!session.task || !session.players.length) return;
  if (playing && gathering) startLap();
  else if (playing && session.players.every(isLapOver)) gather();
  if (partShown() !== session.partDrawn) drawCells();
}
requestAnimationFrame(tick);

export function setPlaying(on) {
  playing = on;
  byId("play").firstChild.textContent = on ? "Pause " : "Play ";
  if (on && session.task) gather();
  else for (const { video } of session.players) video.pause();
}

export function step(frames) {
  setPlaying(false);
  const [first, last] = range();
  const length = last - first + 1;
  seek(first + ((frameOf(session.players[0]) - first + frames + length) % length));
}

export function stopPlayers() {
  for (const { video } of session.players) {
    video.removeAttribute("src");
    video.load();
  }
  session.players = [];
}

export function choosePart(next) {
  session.part = next;
  draw();
  if (playing) gather();
  else seek(range()[0]);
}

export function turnPart(change) {
  const next = ((session.part === null ? 0 : session.part + 1) + change + T + 1) % (T + 1);
  choosePart(next === 0 ? null : next - 1);
}

export function setSpeed(next) {
  speed = next % SPEEDS.length;
  byId("speed").firstChild.textContent = `${["1", "½", "¼"][speed]}× `;
  for (const { video } of session.players) video.playbackRate = SPEEDS[speed];
}

export function toggleGrid() {
  const bare = byId("grid-button").getAttribute("aria-pressed") === "true";
  byId("grid-button").setAttribute("aria-pressed", !bare);
  drawCells();
}
