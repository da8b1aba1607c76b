"""Scenes of the embedded world: what a caption says, and everything it leaves open.

A `SceneSpec` holds only what the caption says (attributes, background). A `Scene` adds what it does not say:
positions, phases, speeds, exact sizes, the slope of the background. Both are pure functions of a seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "magenta", "white")
TEXTURES = ("plain", "striped", "checked", "shaded")
SIZES = ("small", "big")
MOTIONS = ("left", "right", "rises", "sinks", "sways", "bobs", "orbits")
BACKGROUNDS = ("grey", "navy", "brown", "forest", "plum")

NUM_SPRITES = 4
NUM_FRAMES = 13
FRAME_SIZE = 64
PERIOD = 24  # frames of one swing or orbit: a clip shows half of one

RADIUS = {"small": (7.5, 8.5), "big": (10.0, 11.5)}  # pixels
SPEED = (0.7, 1.3)  # pixels per frame of a drifting sprite
SWING = (4.5, 7.0)  # pixels, amplitude of a swinging or orbiting one
HOMES = ((16.0, 16.0), (48.0, 16.0), (16.0, 48.0), (48.0, 48.0))  # x, y: a quarter of the frame for each sprite
STRAY = 6.0  # most pixels, along x and along y, between the middle of a sprite's path and its home
DRIFT = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "rises": (0.0, -1.0), "sinks": (0.0, 1.0)}

Split = Literal["train", "heldout"]


@dataclass(frozen=True)
class SpriteSpec:
    """What a caption says of one sprite."""

    size: str
    texture: str
    colour: str
    shape: str
    motion: str

    @property
    def held_out(self) -> bool:
        """True for the (shape, colour) combinations that no training scene contains."""
        return (SHAPES.index(self.shape) * 3 + 1) % len(COLOURS) == COLOURS.index(self.colour)


@dataclass(frozen=True)
class SceneSpec:
    """What a caption says of a scene: its sprites in the order of mention, and the background."""

    sprites: tuple[SpriteSpec, ...]
    background: str


@dataclass(frozen=True)
class Scene:
    """A spec with the positions, speeds and sizes that its caption leaves open.

    start: [N, 2] x, y in pixels: the position at frame 0 of a drift, the centre of a swing or an orbit.
    rate: [N] pixels per frame of a drift, amplitude in pixels of a swing or an orbit.
    phase: [N] radians; unused by drifts.  radius: [N] pixels.
    slope: [2] relative brightness change of the background from the centre to the right and bottom edge.
    """

    spec: SceneSpec
    start: np.ndarray
    rate: np.ndarray
    phase: np.ndarray
    radius: np.ndarray
    slope: np.ndarray

    def paths(self) -> np.ndarray:
        """Sprite centres, [N, F, 2] x, y in pixels."""
        motions = [sprite.motion for sprite in self.spec.sprites]
        return self.start[:, None] + offsets(motions, self.rate, self.phase)


def offsets(motions: list[str], rate: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Displacement of each sprite from its start, [N, F, 2] x, y in pixels."""
    frames = np.arange(NUM_FRAMES)
    result = np.zeros((len(motions), NUM_FRAMES, 2))
    for i, motion in enumerate(motions):
        angle = phase[i] + 2 * math.pi * frames / PERIOD
        if motion in DRIFT:
            result[i] = frames[:, None] * rate[i] * np.array(DRIFT[motion])
        if motion in ("sways", "orbits"):
            result[i, :, 0] = rate[i] * np.cos(angle)
        if motion in ("bobs", "orbits"):
            result[i, :, 1] = rate[i] * np.sin(angle)
    return result


def sample_spec(rng: np.random.Generator, split: Split) -> SceneSpec:
    """A random spec whose sprites differ in colour.

    Args:
        split: "train" never contains a held-out (shape, colour) pair; "heldout" contains at least one.
    """
    while True:
        colours = rng.permutation(len(COLOURS))[:NUM_SPRITES]
        sprites = tuple(
            SpriteSpec(
                size=SIZES[rng.integers(len(SIZES))],
                texture=TEXTURES[rng.integers(len(TEXTURES))],
                colour=COLOURS[colour],
                shape=SHAPES[rng.integers(len(SHAPES))],
                motion=MOTIONS[rng.integers(len(MOTIONS))],
            )
            for colour in colours
        )
        if any(sprite.held_out for sprite in sprites) == (split == "heldout"):
            return SceneSpec(sprites, BACKGROUNDS[rng.integers(len(BACKGROUNDS))])


def place_scene(spec: SceneSpec, rng: np.random.Generator, num_tries: int = 64) -> Scene:
    """A scene of `spec` with random positions: the first of `num_tries` drafts without overlaps, else the best.

    Each sprite moves in a quarter of the frame of its own, in the order in which the caption names them: so a generator
    as small as the packaged one has little to decide but much to draw. Sprites stay inside the frame; two may touch, or
    overlap by up to a dozen pixels, in passing.
    """
    count = len(spec.sprites)
    motions = [sprite.motion for sprite in spec.sprites]
    drifting = np.array([motion in DRIFT for motion in motions])
    low, high = np.array([RADIUS[sprite.size] for sprite in spec.sprites]).T
    radius = rng.uniform(low, high)
    best: tuple[float, Scene] | None = None
    for _ in range(num_tries):
        rate = np.where(drifting, rng.uniform(*SPEED, count), rng.uniform(*SWING, count))
        phase = rng.uniform(0, 2 * math.pi, count)
        reach = offsets(motions, rate, phase)
        lower = radius[:, None] + 1 - reach.min(1)
        upper = FRAME_SIZE - 1 - radius[:, None] - 1 - reach.max(1)
        middle = np.resize(HOMES, (count, 2)) + rng.uniform(-STRAY, STRAY, (count, 2))
        start = np.clip(middle - (reach.min(1) + reach.max(1)) / 2, lower, upper)
        slope = rng.uniform(-0.35, 0.35, 2)
        scene = Scene(spec, start, rate, phase, radius, slope)
        clearance = _clearance(scene)
        if best is None or clearance > best[0]:
            best = (clearance, scene)
        if clearance >= 0:
            break
    assert best is not None
    return best[1]


def _clearance(scene: Scene) -> float:
    """Smallest gap in pixels between the discs of two sprites over the whole clip (negative: overlap)."""
    paths = scene.paths()
    first, second = np.triu_indices(len(paths), 1)
    gaps = np.linalg.norm(paths[first] - paths[second], axis=-1)
    return float((gaps - (scene.radius[first] + scene.radius[second])[:, None]).min())


def sample_scene(seed: int, split: Split) -> Scene:
    """The scene of a seed: `sample_spec`, then `place_scene`, from one random stream."""
    rng = np.random.default_rng([seed, split == "heldout"])
    return place_scene(sample_spec(rng, split), rng)
