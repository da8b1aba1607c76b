// The page's facts and words, and how its elements are made.

export const facts = JSON.parse(document.getElementById("facts").textContent);
export const [T, H, W] = facts.grid;
export const KINDS = Object.fromEntries(facts.kinds); // aspect -> kinds of defects in its patches
export const PLACES = H * W;
export const byId = (id) => document.getElementById(id);
export const MEANING = {
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
export const SEVERITIES = [[3, "noticeable", "z"], [2, "clear", "x"], [1, "broken", "c"]];
export const BRUSH_KEYS = ["qwer", "asdf", "tyio", "hkbm"]; // a row of the keyboard for each aspect; a fifth has none
export const VERDICTS = [[1, "Left", "1"], [0, "Equal", "2"], [-1, "Right", "3"]];
export const SPEEDS = [1, 0.5, 0.25];
export const EMPTY = { rate: { scores: {}, marks: [] }, compare: { preference: null, patches: [] } };

export const spoken = (name) => name.replaceAll("_", " ");
export const titled = (name) => spoken(name)[0].toUpperCase() + spoken(name).slice(1);

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export const key = (name) => element("kbd", {}, name.length === 1 ? name.toUpperCase() : name);
