"""Scenes of the embedded worlds: what a caption says, and everything it leaves open.

A `SceneSpec` holds only what the caption says (attributes, background). A `Scene` of a world adds what it does not say:
positions, phases, speeds, exact sizes, the slope of the light, where the camera looks. Both are pure functions of a
seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from halovid.world.worlds import PLAIN, World

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "magenta", "white")
TEXTURES = ("plain", "striped", "checked", "shaded")
SIZES = ("small", "big")
MOTIONS = ("left", "right", "rises", "sinks", "sways", "bobs", "orbits")
BACKGROUNDS = ("grey", "navy", "brown", "forest", "plum")

NUM_SPRITES = 4
TEXTURE_SIZE = 128  # pixels after which the texture of a background repeats
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
    view: [2] x, y in pixels: the place of the background's texture at the frame's corner in frame 0.
    pan: [2] pixels per frame by which the camera moves over the background.
    """

    world: World
    spec: SceneSpec
    start: np.ndarray
    rate: np.ndarray
    phase: np.ndarray
    radius: np.ndarray
    slope: np.ndarray
    view: np.ndarray
    pan: np.ndarray

    def paths(self) -> np.ndarray:
        """Sprite centres, [N, F, 2] x, y in pixels."""
        motions = [sprite.motion for sprite in self.spec.sprites]
        return self.start[:, None] + offsets(self.world, motions, self.rate, self.phase)

    def views(self) -> np.ndarray:
        """The place of the background's texture at the corner of each frame, [F, 2] x, y in pixels."""
        return self.view + np.arange(self.world.num_frames)[:, None] * self.pan


def offsets(world: World, motions: list[str], rate: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Displacement of each sprite from its start, [N, F, 2] x, y in pixels."""
    frames = np.arange(world.num_frames)
    result = np.zeros((len(motions), world.num_frames, 2))
    for i, motion in enumerate(motions):
        angle = phase[i] + 2 * math.pi * frames / world.period
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


def place_scene(spec: SceneSpec, rng: np.random.Generator, world: World = PLAIN, num_tries: int = 64) -> Scene:
    """A scene of `spec` with random positions: the first of `num_tries` drafts without much overlap, else the best.

    Each sprite moves in a quarter of the frame of its own, in the order in which the caption names them: so a generator
    as small as the packaged ones has little to decide but much to draw. Sprites stay inside the frame; two may touch in
    passing, or overlap by up to a dozen pixels.
    """
    count = len(spec.sprites)
    motions = [sprite.motion for sprite in spec.sprites]
    drifting = np.array([motion in DRIFT for motion in motions])
    low, high = np.array([world.radius[sprite.size] for sprite in spec.sprites]).T
    radius = rng.uniform(low, high)
    still = np.zeros(2)
    best: tuple[float, Scene] | None = None
    for _ in range(num_tries):
        rate = np.where(drifting, rng.uniform(*world.speed, count), rng.uniform(*world.swing, count))
        phase = rng.uniform(0, 2 * math.pi, count)
        reach = offsets(world, motions, rate, phase)
        lower = radius[:, None] + 1 - reach.min(1)
        upper = world.frame_size - 1 - radius[:, None] - 1 - reach.max(1)
        middle = np.resize(world.homes, (count, 2)) + rng.uniform(-world.stray, world.stray, (count, 2))
        start = np.clip(middle - (reach.min(1) + reach.max(1)) / 2, lower, upper)
        slope = rng.uniform(-world.slope, world.slope, 2)
        scene = Scene(world, spec, start, rate, phase, radius, slope, view=still, pan=still)
        clearance = _clearance(scene)
        if best is None or clearance > best[0]:
            best = (clearance, scene)
        if clearance >= -world.overlap:
            break
    assert best is not None
    return _with_camera(best[1], rng) if world.pan else best[1]


def _with_camera(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene, seen by a camera that looks somewhere and moves evenly."""
    pan = rng.uniform(-scene.world.pan, scene.world.pan, 2)
    return replace(scene, view=rng.uniform(0, TEXTURE_SIZE, 2), pan=pan)


def _clearance(scene: Scene) -> float:
    """Smallest gap in pixels between the discs of two sprites over the whole clip (negative: overlap)."""
    paths = scene.paths()
    first, second = np.triu_indices(len(paths), 1)
    gaps = np.linalg.norm(paths[first] - paths[second], axis=-1)
    return float((gaps - (scene.radius[first] + scene.radius[second])[:, None]).min())


def sample_scene(seed: int, split: Split, world: World = PLAIN) -> Scene:
    """The scene of a seed: `sample_spec`, then `place_scene`, from one random stream."""
    rng = np.random.default_rng([seed, split == "heldout"])
    return place_scene(sample_spec(rng, split), rng, world)
