"use strict";

// What an annotator does becomes `content`, an immutable value; every change is drawn, kept in this browser and
// sent to the server. A change counts as saved when the server has said so.

const facts = JSON.parse(document.getElementById("facts").textContent);
const [T, H, W] = facts.grid;
const KINDS = Object.fromEntries(facts.kinds); // aspect -> kinds of defects in its patches
const PLACES = H * W;
const byId = (id) => document.getElementById(id);
const MEANING = {
  visual_quality: "Clear, undistorted, well-formed objects and surfaces",
  temporal_consistency: "Things stay what they are from frame to frame",
  dynamic_degree: "How much moves, as far as the text asks for it",
  text_alignment: "What is shown is what the text says",
  factual_consistency: "What is shown agrees with common sense and physics",
  shape: "A body or object is deformed, melts, or has too many or too few parts",
  texture: "Smeared, noisy, blocky or blurred surface",
  flicker: "Brightness, colour or texture jumps from frame to frame",
  identity: "Something turns into something else, appears or vanishes without cause",
  motion: "Movement that is impossible, frozen or jerky",
  content: "What is shown contradicts the text or the facts",
  other: "Any other defect",
};
const SEVERITIES = [[3, "noticeable", "z"], [2, "clear", "x"], [1, "broken", "c"]];
const BRUSH_KEYS = ["qwer", "asdf", "tyio", "hkbm"]; // a row of the keyboard for each aspect; a fifth has none
const VERDICTS = [[1, "Left", "1"], [0, "Equal", "2"], [-1, "Right", "3"]];
const SPEEDS = [1, 0.5, 0.25];
const EMPTY = { rate: { scores: {}, marks: [] }, compare: { preference: null, patches: [] } };

const spoken = (name) => name.replaceAll("_", " ");
const titled = (name) => spoken(name)[0].toUpperCase() + spoken(name).slice(1);

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const key = (name) => element("kbd", {}, name.length === 1 ? name.toUpperCase() : name);

// State

let annotator = null; // { id, name }
let mode = "rate";
let task = null; // what the server gave
let content = null;
let history = []; // earlier contents of this item, and the aspects that were to be scored then
let part = null; // the part of the time that is looked at and marked; null is all of it
let cursor = { y: 0, x: 0 };
let brush = { aspect: Object.keys(KINDS)[0], kind: Object.values(KINDS)[0][0] };
let severity = 2;
let currentScore = 0;
let moving = false; // on the way to another item

const comparing = () => mode === "compare";

// The server

class ServerError extends Error {
  constructor(status, body) {
    super(body.detail || `the server answered ${status}`);
    this.status = status;
    this.task = body.task;
  }
}

async function ask(path, body, options = {}) {
  const headers = { "Content-Type": "application/json" };
  let response, answer;
  try {
    response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), ...options });
    answer = await response.json();
  } catch {
    throw new ServerError(503, { detail: "The server can't be reached." });
  }
  if (!response.ok) throw new ServerError(response.status, answer);
  return answer;
}

const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const mayPass = (error) => error instanceof ServerError && error.status >= 500;

async function insist(path, body) {
  for (let pause = 500; ; pause = Math.min(2 * pause, 4000)) {
    try {
      return await ask(path, body);
    } catch (error) {
      if (!mayPass(error)) throw error;
      showSaved("failing", "Server not reached. Trying again…");
      await wait(pause);
    }
  }
}

// Saving: one save at a time. A save that may or may not have arrived is sent again under its own id, never anew.

let unsaved = null; // the newest state that no save was made of
let sending = null; // promise of the running save
let underway = null; // id of the save that may or may not have arrived

const draftName = () => `halovid ${annotator.id} ${annotator.name} ${task.item}`;

function keepDraft(draft) {
  try {
    if (draft) localStorage.setItem(draftName(), JSON.stringify(draft));
    else localStorage.removeItem(draftName());
  } catch { /* a browser that keeps nothing: the server still does */ }
}

function takeDraft() {
  try {
    const draft = JSON.parse(localStorage.getItem(draftName()));
    // made of what the server has, or of what it had before a save whose answer was lost
    return draft && (draft.base === task.revision || (draft.underway && draft.underway === task.save_id)) ? draft : null;
  } catch {
    return null;
  }
}

function keep(state = task.state) {
  unsaved = { state, content };
  keepDraft({ ...unsaved, base: task.revision, underway });
  showSaved("waiting", "Saving…");
  sending ??= send().finally(() => { sending = null; });
  return sending;
}

const saveOf = ({ state, content }) => ({
  annotator: annotator.id, item: task.item, state, content, base: task.revision, save_id: crypto.randomUUID(),
});

async function send() {
  await wait(150); // strokes of the brush go together
  while (unsaved) {
    const save = saveOf(unsaved);
    underway = save.save_id;
    keepDraft({ ...unsaved, base: task.revision, underway });
    unsaved = null;
    try {
      const answer = await insist("/api/save", save);
      underway = null;
      task.revision = answer.revision;
      task.state = save.state;
      if (!moving) showProgress(answer.progress); // on the move it is shown with the next item
    } catch (error) {
      unsaved = underway = null;
      keepDraft(null);
      if (error.status === 409) return show(error.task, "This was changed in another tab; here is what was saved there.");
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

// From item to item

async function goTo(path, extra = {}) {
  const answer = await insist(path, { annotator: annotator.id, mode, ...extra });
  showProgress(answer.progress);
  if (answer.task) show(answer.task);
  else if (path === "/api/next") showEnd(answer.progress);
  else showTrouble("This is the first one.");
}

async function move(work) {
  if (moving) return;
  moving = true;
  byId("save").disabled = byId("skip").disabled = true;
  try {
    await work();
  } catch (error) {
    showTrouble(error.message);
  } finally {
    moving = false;
    byId("save").disabled = byId("skip").disabled = false;
  }
}

const leave = (state) => move(async () => {
  const mine = task; // another object when it turns out that another tab has changed it
  await keep(state);
  if (task === mine && task.state === state) await goTo("/api/next");
});

function finish() {
  const missing = comparing()
    ? (content.preference === null ? "Say which clip is better first." : null)
    : missingScore();
  if (missing) return showTrouble(missing);
  return leave("done");
}

function missingScore() {
  const index = facts.aspects.findIndex((aspect) => !(aspect in content.scores));
  if (index < 0) return null;
  currentScore = index;
  draw();
  return `Score ${spoken(facts.aspects[index])} first.`;
}

function back() {
  return move(async () => {
    if (sending) await sending;
    await goTo("/api/previous", { before: task && byId("end").hidden ? task.item : null });
  });
}

function show(given, trouble = null) {
  const samePlace = task && task.item === given.item;
  task = given;
  content = { ...EMPTY[mode], ...given.content };
  const draft = takeDraft();
  const stored = JSON.stringify(content);
  if (draft) content = { ...EMPTY[mode], ...draft.content };
  history = [];
  part = samePlace ? part : null;
  currentScore = Math.max(0, facts.aspects.findIndex((aspect) => !comparing() && !(aspect in content.scores)));
  byId("end").hidden = true;
  byId("work").hidden = false;
  byId("prompt").textContent = given.prompt;
  if (!samePlace) buildScreens();
  draw();
  showTrouble(trouble);
  showSaved("", given.revision ? "✓ Saved" : "");
  if (!trouble && draft && JSON.stringify(content) !== stored) keep();
}

function showEnd({ done, skipped }) {
  stopPlayers();
  task = null;
  byId("work").hidden = true;
  byId("end").hidden = false;
  byId("end-count").textContent = `${done} done, ${skipped} skipped by ${annotator.name}.`;
  byId("end-back").hidden = done + skipped === 0;
}

function showProgress({ done, skipped, left }) {
  const total = done + skipped + left;
  byId("bar").setAttribute("aria-valuemax", total);
  byId("bar").setAttribute("aria-valuenow", done + skipped);
  byId("bar").firstElementChild.style.width = `${total ? (100 * (done + skipped)) / total : 100}%`;
  byId("count").textContent = `${done} done${skipped ? `, ${skipped} skipped` : ""}, ${left} left`;
}

function showSaved(kind, text) {
  byId("saved").className = kind;
  byId("saved").textContent = text;
}

function showTrouble(text) {
  byId("trouble").hidden = !text;
  byId("trouble").textContent = text || "";
}

// Changing the content

function change(next) {
  if (!task || moving || JSON.stringify(next) === JSON.stringify(content)) return;
  history.push({ content, currentScore });
  content = next;
  showTrouble(null);
  draw();
  keep().catch((error) => showTrouble(error.message));
}

function undo() {
  if (moving) return;
  if (!task || !history.length) return back();
  ({ content, currentScore } = history.pop());
  showTrouble(null);
  draw();
  keep().catch((error) => showTrouble(error.message));
}

const patchesAt = (y, x) => {
  const times = part === null ? [...Array(T).keys()] : [part];
  return times.map((time) => time * PLACES + y * W + x);
};

const isBrush = (mark) => mark.aspect === brush.aspect && mark.kind === brush.kind && mark.score === severity;

function isPainted(y, x) {
  const marks = content.marks.filter(isBrush).map((mark) => mark.patch);
  return patchesAt(y, x).every((patch) => marks.includes(patch));
}

function paint(y, x, on) {
  const patches = patchesAt(y, x);
  const marks = content.marks.filter((mark) => mark.aspect !== brush.aspect || !patches.includes(mark.patch));
  if (on) marks.push(...patches.map((patch) => ({ aspect: brush.aspect, patch, kind: brush.kind, score: severity })));
  change({ ...content, marks });
}

function isPreferred(y, x, side) {
  const own = content.patches.filter((entry) => entry.preference === side).map((entry) => entry.patch);
  return patchesAt(y, x).every((patch) => own.includes(patch));
}

function prefer(y, x, side) {
  const patches = patchesAt(y, x);
  const others = content.patches.filter((entry) => !patches.includes(entry.patch));
  if (side) others.push(...patches.map((patch) => ({ patch, preference: side })));
  change({ ...content, patches: others });
}

function score(value, index = currentScore) {
  change({ ...content, scores: { ...content.scores, [facts.aspects[index]]: value } });
  currentScore = Math.min(index + 1, facts.aspects.length - 1);
  draw();
}

const sideOf = (index) => (index === 0 ? 1 : -1); // the left clip is the first

function touch(y, x, index) {
  cursor = { y, x };
  if (!comparing()) paint(y, x, !isPainted(y, x));
  else prefer(y, x, isPreferred(y, x, sideOf(index)) ? 0 : sideOf(index));
}

// Screens

let players = []; // { clip, video, cells, grid, screen }
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
let gathering = false; // between two laps: waiting until all clips are at the start
let speed = 0;
let partDrawn = null;

function buildScreens() {
  stopPlayers();
  players = task.clips.map(buildScreen);
  byId("screens").replaceChildren(...players.map(({ screen }, index) => element("figure", {},
    ...(comparing() ? [element("figcaption", {}, ["Left", "Right"][index])] : []), screen)));
  partDrawn = null;
  layout();
  gathering = false;
  if (playing) gather();
  else seek(range()[0]);
}

function buildScreen(clip, index) {
  const video = element("video", { src: clip.url, muted: true, playsInline: true, preload: "auto", disablePictureInPicture: true });
  video.setAttribute("aria-label", comparing() ? ["Left clip", "Right clip"][index] : "Clip");
  const grid = element("div", { className: "grid", role: "group", "aria-label": `Patches${comparing() ? [" of the left clip", " of the right clip"][index] : ""}` });
  grid.style.gridTemplate = `repeat(${H}, minmax(0, 1fr)) / repeat(${W}, minmax(0, 1fr))`;
  const cells = Array.from({ length: PLACES }, (_, place) => buildCell(Math.floor(place / W), place % W, index));
  grid.append(...cells);
  const failure = element("p", { className: "failure", hidden: true }, "This clip can't be played here: skip it.");
  const screen = element("div", { className: "screen" }, video, grid, failure);
  video.addEventListener("error", () => { failure.hidden = false; });
  video.addEventListener("loadedmetadata", layout);
  return { clip, video, grid, cells, screen };
}

let stroke = null; // while the mouse is down: whether it marks, or takes marks away

function buildCell(y, x, index) {
  const cell = element("button", { type: "button", className: "cell", tabIndex: -1 });
  cell.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !task) return;
    event.preventDefault();
    cell.releasePointerCapture?.(event.pointerId); // so that a finger paints too
    if (!comparing()) stroke = !isPainted(y, x);
    touch(y, x, index);
  });
  cell.addEventListener("pointerenter", () => {
    if (stroke === null || !task) return;
    cursor = { y, x };
    paint(y, x, stroke);
  });
  cell.addEventListener("focus", () => { cursor = { y, x }; drawCells(); });
  cell.addEventListener("click", (event) => { if (event.detail === 0) touch(y, x, index); }); // not by a pointer
  return cell;
}

for (const name of ["pointerup", "pointercancel", "blur"]) addEventListener(name, () => { stroke = null; });

function layout() {
  if (!players.length || byId("work").hidden) return;
  const stage = document.querySelector(".stage");
  const room = stage.clientWidth / players.length - (players.length > 1 ? 6 : 0);
  const below = document.querySelector(".clock").offsetHeight + 40;
  const caption = comparing() ? 28 : 0;
  const height = Math.max(260, innerHeight - stage.getBoundingClientRect().top - scrollY - below - caption);
  for (const { clip, video, screen } of players) {
    const width = Math.min(room, (height * clip.width) / clip.height);
    screen.style.width = `${Math.floor(width)}px`;
    screen.style.aspectRatio = `${clip.width} / ${clip.height}`;
    video.classList.toggle("coarse", 2 * clip.width <= width * devicePixelRatio);
  }
}
addEventListener("resize", layout);

// The clock: all clips begin each lap together

const range = () => (part === null ? [0, task.clips[0].num_frames - 1] : task.clips[0].parts[part]);

function seek(frame) {
  for (const { video, clip } of players) video.currentTime = (Math.min(frame, clip.num_frames - 1) + 0.5) / clip.fps;
}

function gather() {
  gathering = true;
  for (const { video } of players) video.pause();
  seek(range()[0]);
}

const frameOf = ({ video, clip }) => Math.min(Math.floor(video.currentTime * clip.fps + 0.01), clip.num_frames - 1);

function isLapOver({ video, clip }) {
  const last = part === null ? clip.num_frames - 1 : clip.parts[part][1];
  return video.ended || frameOf({ video, clip }) > last;
}

function startLap() {
  if (players.some(({ video }) => video.seeking || video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA)) return;
  gathering = false;
  for (const { video } of players) {
    video.playbackRate = SPEEDS[speed];
    video.play().catch((error) => {
      if (error.name === "NotAllowedError") setPlaying(false);
    });
  }
}

function tick() {
  requestAnimationFrame(tick);
  if (!task || !players.length) return;
  if (playing && gathering) startLap();
  else if (playing && players.every(isLapOver)) gather();
  if (partShown() !== partDrawn) drawCells();
}
requestAnimationFrame(tick);

const partShown = () => part ?? players[0].clip.frame_to_part[frameOf(players[0])];

function setPlaying(on) {
  playing = on;
  byId("play").firstChild.textContent = on ? "Pause " : "Play ";
  if (on && task) gather();
  else for (const { video } of players) video.pause();
}

function step(frames) {
  setPlaying(false);
  const [first, last] = range();
  const length = last - first + 1;
  seek(first + ((frameOf(players[0]) - first + frames + length) % length));
}

function stopPlayers() {
  for (const { video } of players) {
    video.removeAttribute("src");
    video.load();
  }
  players = [];
}

function choosePart(next) {
  part = next;
  draw();
  if (playing) gather();
  else seek(range()[0]);
}

function turnPart(change) {
  const next = ((part === null ? 0 : part + 1) + change + T + 1) % (T + 1);
  choosePart(next === 0 ? null : next - 1);
}

function setSpeed(next) {
  speed = next % SPEEDS.length;
  byId("speed").firstChild.textContent = `${["1", "½", "¼"][speed]}× `;
  for (const { video } of players) video.playbackRate = SPEEDS[speed];
}

function toggleGrid() {
  const bare = byId("grid-button").getAttribute("aria-pressed") === "true";
  byId("grid-button").setAttribute("aria-pressed", !bare);
  drawCells();
}

// Drawing

function draw() {
  drawCells();
  drawControls();
}

function drawCells() {
  if (!task || !players.length) return;
  partDrawn = partShown();
  const bare = byId("grid-button").getAttribute("aria-pressed") !== "true";
  for (const button of byId("parts").children) button.classList.toggle("now", Number(button.value) === partDrawn);
  players.forEach(({ grid, cells, screen }, index) => {
    grid.classList.toggle("bare", bare);
    screen.classList.toggle("chosen", comparing() && content.preference === sideOf(index));
    cells.forEach((cell, place) => drawCell(cell, place, index));
  });
}

function drawCell(cell, place, index) {
  const y = Math.floor(place / W), x = place % W;
  const patch = partDrawn * PLACES + place;
  const marks = comparing() ? preferenceMarks(patch, index) : defectMarks(patch);
  const isCursor = y === cursor.y && x === cursor.x;
  cell.classList.toggle("cursor", isCursor);
  cell.tabIndex = isCursor && index === 0 ? 0 : -1;
  cell.setAttribute("aria-pressed", marks.length > 0);
  cell.setAttribute("aria-label", `row ${y + 1}, column ${x + 1}: ${marks.map((mark) => mark.title).join(", ") || "no mark"}`);
  cell.replaceChildren(...marks, ...timesOf(place));
}

function defectMarks(patch) {
  const order = Object.keys(KINDS);
  return content.marks
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
  const entry = content.patches.find((own) => own.patch === patch);
  if (!entry) return [];
  const better = entry.preference === sideOf(index);
  return [element("span", { className: better ? "mark better" : "mark worse", title: better ? "better here" : "worse here" },
    ...(better ? [element("b", {}, "better")] : []))];
}

function timesOf(place) { // a dot for each part of the time, full where something is marked
  const marked = new Set((comparing() ? content.patches : content.marks).map((own) => own.patch));
  const on = Array.from({ length: T }, (_, time) => marked.has(time * PLACES + place));
  if (T === 1 || !on.includes(true)) return [];
  return [element("span", { className: "times", ariaHidden: "true" }, ...on.map((one) => element("i", { className: one ? "on" : "" })))];
}

function check(group, chosen) { // of a group of radio buttons
  for (const button of byId(group).querySelectorAll("[role=radio]")) {
    button.setAttribute("aria-checked", chosen(button));
  }
}

function drawControls() {
  const used = new Set((comparing() ? content.patches : content.marks).map((own) => Math.floor(own.patch / PLACES)));
  check("parts", (button) => button.value === String(part ?? "all"));
  for (const button of byId("parts").children) button.classList.toggle("marked", used.has(Number(button.value)));
  check("brushes", (button) => button.value === `${brush.aspect}/${brush.kind}`);
  check("severities", (button) => Number(button.value) === severity);
  if (comparing()) return check("verdicts", (button) => content.preference !== null && Number(button.value) === content.preference);
  facts.aspects.forEach((aspect, index) => {
    const row = byId("scores").children[index];
    row.classList.toggle("current", index === currentScore);
    for (const button of row.querySelectorAll("button")) {
      button.setAttribute("aria-checked", content.scores[aspect] === Number(button.value));
    }
  });
}

// Controls

function radio(label, value, name, choose, shortcut = null, title = "") {
  const button = element("button", { type: "button", role: "radio", value, title, "aria-label": name }, label);
  if (shortcut) button.append(" ", key(shortcut));
  button.addEventListener("click", choose);
  return button;
}

function buildControls() {
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
      () => change({ ...content, preference: value }), shortcut)));
  byId("parts").append(
    radio("All time", "all", "all of the time", () => choosePart(null)),
    ...(T > 1 ? Array.from({ length: T }, (_, time) =>
      radio(String(time + 1), time, `part ${time + 1} of ${T}`, () => choosePart(time))) : []),
  );
  byId("parts").title = "Which part of the time to look at and to mark: keys , and .";
}

function chooseBrush(aspect, kind) {
  brush = { aspect, kind };
  drawControls();
}

function chooseSeverity(value) {
  severity = value;
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
  cursor = { y: (cursor.y + dy + H) % H, x: (cursor.x + dx + W) % W };
  players[0].cells[cursor.y * W + cursor.x].focus({ preventScroll: true });
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
  " ": () => touch(cursor.y, cursor.x, 0),
  Backspace: () => { currentScore = Math.max(0, currentScore - 1); drawControls(); },
  ...Object.fromEntries([1, 2, 3, 4, 5].map((value) => [String(value), () => score(value)])),
  ...Object.fromEntries(SEVERITIES.map(([value, , shortcut]) => [shortcut, () => chooseSeverity(value)])),
  ...Object.fromEntries(Object.entries(KINDS).flatMap(([aspect, kinds], row) => kinds.map((kind, index) =>
    [BRUSH_KEYS[row]?.[index] ?? `${aspect}/${kind}`, () => chooseBrush(aspect, kind)]))),
};
const COMPARE_KEYS = {
  q: () => prefer(cursor.y, cursor.x, isPreferred(cursor.y, cursor.x, 1) ? 0 : 1),
  e: () => prefer(cursor.y, cursor.x, isPreferred(cursor.y, cursor.x, -1) ? 0 : -1),
  w: () => prefer(cursor.y, cursor.x, 0),
  ...Object.fromEntries(VERDICTS.map(([value, , shortcut]) => [shortcut, () => change({ ...content, preference: value })])),
};

document.addEventListener("keydown", (event) => {
  if (!annotator || byId("help").open) return;
  const pressed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const isUndo = pressed === "z" && (event.ctrlKey || event.metaKey);
  if ((event.ctrlKey || event.metaKey || event.altKey) && !isUndo) return;
  const onButton = event.target.closest("button:not(.cell)");
  if (onButton && (pressed === "Enter" || pressed === " ")) return; // the button's own business
  const work = isUndo ? undo : task
    ? (comparing() ? COMPARE_KEYS : RATE_KEYS)[pressed] ?? KEYS[pressed]
    : { u: back }[pressed];
  if (!work || (event.repeat && !pressed.startsWith("Arrow"))) return;
  event.preventDefault();
  work();
});

function buildHelp() {
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

// The start

byId("join").addEventListener("submit", async (event) => {
  event.preventDefault();
  byId("refusal").hidden = true;
  try {
    const joined = await ask("/api/join", { name: byId("name").value });
    mode = new FormData(event.target).get("mode");
    annotator = { id: joined.annotator, name: joined.name };
    byId("who").textContent = annotator.name;
    byId("task-name").textContent = comparing() ? "compares clips" : "rates clips";
    byId("rating").hidden = comparing();
    byId("comparing").hidden = !comparing();
    buildHelp();
    setPlaying(playing);
    byId("start").hidden = true;
    document.activeElement?.blur();
    await goTo("/api/next");
  } catch (error) {
    annotator = null;
    byId("start").hidden = false;
    byId("refusal").textContent = error.message;
    byId("refusal").hidden = false;
  }
});

buildControls();
