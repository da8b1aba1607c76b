"use strict";

// All clips run on one clock. A lap starts with every video paused at the same time; when the last one is
// there, all play. Within a lap the first video leads and the others bend their speed towards it: a seek in
// full flight would itself take longer than the drift it mends.

const page = JSON.parse(document.getElementById("clip-data").textContent);
const playButton = document.getElementById("play");
const scrubber = document.getElementById("scrubber");
const readout = document.getElementById("readout");
const rewardSwitch = document.getElementById("rewards");
const legend = document.getElementById("legend");

const FRAME = 1 / page.clock.fps; // seconds
const TOLERANCE = 0.01; // seconds of drift that nobody sees
const MAX_DRIFT = 2 * FRAME; // beyond this the videos are gathered anew

let playing = false;
let gathering = false; // between two laps: waiting until every video is at `position`
let position = FRAME / 2; // seconds since the start of the clips

// A picture is a video whose only frame is always there.
const still = (image) => Object.assign(image, {
  currentTime: 0, ended: true, seeking: false, paused: true, readyState: HTMLMediaElement.HAVE_ENOUGH_DATA,
  play: async () => {}, pause: () => {}, load: () => {},
});

const pairs = [...document.querySelectorAll(".pair")].map((article, index) => ({
  article,
  players: [...article.querySelectorAll(".side")].map((figure, side) => ({
    clip: page.clips[index],
    side: page.clips[index].sides[side],
    video: figure.querySelector("video") ?? still(figure.querySelector("img")),
    canvas: figure.querySelector("canvas"),
    failure: figure.querySelector(".failure"),
    url: null,
    loaded: false,
    drawn: null, // t index of the patches on the canvas
  })),
}));
const players = pairs.flatMap((pair) => pair.players);

const loadedPlayers = () => players.filter((player) => player.loaded); // not readyState: it drops during a seek

function seek({ video, clip }, seconds) {
  video.currentTime = Math.min(seconds, (clip.numFrames - 0.5) / clip.fps);
}

function frameOf({ video, clip }) {
  return Math.min(Math.floor(video.currentTime * clip.fps + 0.01), clip.numFrames - 1);
}

function pageFrame() {
  return Math.min(Math.floor(position / FRAME + 0.01), page.clock.numFrames - 1);
}

// Patch rewards

function colourOf(reward) {
  const { low, high, colours } = page.scale;
  const share = Math.min(Math.max((reward - low) / (high - low), 0), 1);
  return colours[Math.round(share * (colours.length - 1))];
}

function drawRewards(player) {
  const index = player.clip.frameToPatch[frameOf(player)];
  if (index === player.drawn) return;
  player.drawn = index;
  const rows = player.side.rewards[index];
  player.canvas.width = rows[0].length; // one pixel for each patch; also clears the canvas
  player.canvas.height = rows.length;
  const context = player.canvas.getContext("2d");
  rows.forEach((row, y) => row.forEach((reward, x) => {
    if (reward === null) return;
    context.fillStyle = colourOf(reward);
    context.fillRect(x, y, 1, 1);
  }));
}

function refresh() {
  if (rewardSwitch.checked) loadedPlayers().forEach(drawRewards);
  scrubber.value = pageFrame();
  scrubber.setAttribute("aria-valuetext", `frame ${pageFrame() + 1} of ${page.clock.numFrames}`);
  readout.textContent = `${pageFrame() + 1} / ${page.clock.numFrames}`;
}

// The clock

function gather(seconds) {
  position = seconds;
  gathering = true;
  for (const player of loadedPlayers()) {
    player.video.pause();
    seek(player, seconds);
  }
}

function startLap(loaded) {
  if (loaded.some(({ video }) => video.seeking || video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA)) return;
  gathering = false;
  for (const { video } of loaded) {
    video.playbackRate = 1;
    video.play().catch((error) => {
      if (error.name === "NotAllowedError") setPlaying(false); // an AbortError only says that a pause came first
    });
  }
}

function keepInStep(loaded) {
  const running = loaded.filter(({ video }) => !video.ended);
  if (!running.length) return gather(0);
  position = running[0].video.currentTime;
  for (const { video } of running) {
    const drift = position - video.currentTime;
    if (video.paused || Math.abs(drift) > MAX_DRIFT) return gather(position);
    video.playbackRate = Math.abs(drift) < TOLERANCE ? 1 : Math.min(Math.max(1 + 3 * drift, 0.5), 1.5);
  }
}

function tick() {
  if (!playing) return;
  const loaded = loadedPlayers();
  if (loaded.length && gathering) startLap(loaded);
  else if (loaded.length) keepInStep(loaded);
  refresh();
  requestAnimationFrame(tick);
}

function showFrame(frame) {
  position = (frame + 0.5) * FRAME; // the middle of a frame: rounding can't show its neighbour
  loadedPlayers().forEach((player) => seek(player, position));
  refresh();
}

function setPlaying(on) {
  if (on === playing) return;
  playing = on;
  playButton.textContent = on ? "Pause" : "Play";
  if (on) {
    gather(pageFrame() === page.clock.numFrames - 1 ? 0 : position);
    requestAnimationFrame(tick);
  } else {
    players.forEach(({ video }) => video.pause());
    showFrame(pageFrame());
  }
}

function step(change) {
  setPlaying(false);
  showFrame((pageFrame() + change + page.clock.numFrames) % page.clock.numFrames);
}

// Loading: browsers allow a few dozen videos at a time, so only those near the window hold their file

function load(player) {
  if (player.video.hasAttribute("src")) return;
  if (!player.url) {
    const bytes = Uint8Array.from(atob(player.side.file), (character) => character.charCodeAt(0));
    player.url = URL.createObjectURL(new Blob([bytes], { type: player.side.type }));
  }
  player.video.src = player.url;
}

function unload(player) {
  if (!player.video.hasAttribute("src")) return;
  player.loaded = false;
  player.video.removeAttribute("src");
  player.video.load();
}

for (const player of players) {
  const { video, canvas, failure } = player;
  video.addEventListener(video.matches("img") ? "load" : "loadeddata", () => {
    player.loaded = true;
    video.classList.toggle("coarse", (video.videoWidth ?? video.naturalWidth) < canvas.parentElement.clientWidth);
    if (playing) gather(position);
    else seek(player, position);
    refresh();
  });
  video.addEventListener("error", () => {
    player.loaded = false;
    failure.hidden = false;
  });
}

const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const pair = pairs.find(({ article }) => article === entry.target);
    pair.players.forEach(entry.isIntersecting ? load : unload);
  }
}, { rootMargin: "50% 0px" });
pairs.forEach(({ article }) => observer.observe(article));

// Controls

playButton.addEventListener("click", () => setPlaying(!playing));
scrubber.addEventListener("input", () => {
  const frame = Number(scrubber.value); // before pausing, which sets it to the frame that is shown
  setPlaying(false);
  showFrame(frame);
});
rewardSwitch.addEventListener("change", () => {
  legend.hidden = !rewardSwitch.checked;
  document.getElementById("clips").classList.toggle("show-rewards", rewardSwitch.checked);
  players.forEach(({ canvas }) => { canvas.hidden = !rewardSwitch.checked; });
  refresh();
});
document.addEventListener("keydown", (event) => {
  const change = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const modified = event.altKey || event.ctrlKey || event.metaKey || event.shiftKey;
  if (!change || modified || !loadedPlayers().length || event.target.closest("#scrubber, [tabindex]")) return;
  event.preventDefault();
  step(change);
});

if (!matchMedia("(prefers-reduced-motion: reduce)").matches) setPlaying(true);
