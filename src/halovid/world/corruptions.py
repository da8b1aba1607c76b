"""Corruptions: local defects of known kind, sprite and frames.

A corruption turns one sprite's layer, over a window of frames, into a defective layer. What it changes is known
exactly: the difference of the corrupted clip from the clean one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from halovid.world.render import render_layers, sprite_layers
from halovid.world.scenes import Scene

_BLOCK = 8  # pixels, side of a block of `noise`
_HOLD = 4  # frames for which it stays the same


@dataclass(frozen=True)
class Event:
    """One corruption: of this kind, of the sprite with this index, in frames first..last-1.

    It shows in a disc of radius `reach` pixels around a point `away` (x, y) from the sprite's centre; without a reach
    on the whole sprite.
    """

    kind: str
    sprite: int
    first: int
    last: int
    away: tuple[float, float] = (0.0, 0.0)
    reach: float = math.inf


def _flicker(layer: Tensor, rng: np.random.Generator) -> Tensor:
    """The sprite fades out and comes back every two frames."""
    on = (np.arange(len(layer)) // 2 + rng.integers(2)) % 2
    strength = np.where(on, rng.uniform(0.8, 1.0), rng.uniform(0.0, 0.15))
    return layer * torch.tensor(strength, dtype=layer.dtype)[:, None, None, None]


def _smear(layer: Tensor, rng: np.random.Generator) -> Tensor:
    """The sprite is dragged out along a line."""
    angle, length = rng.uniform(0, math.pi), rng.uniform(18, 26)
    steps = np.linspace(-0.5, 0.5, 9)[:, None] * length * np.array([math.cos(angle), math.sin(angle)])
    return torch.stack([_shift(layer, dx, dy) for dx, dy in steps]).mean(0)


def _melt(layer: Tensor, rng: np.random.Generator) -> Tensor:
    """The sprite runs down in tongues of different length."""
    wave = 2 * math.pi / rng.uniform(7, 11)
    phase = rng.uniform(0, 2 * math.pi)
    rows, columns = _pixel_axes(layer)
    drop = rng.uniform(10, 16) * (0.55 + 0.45 * torch.sin(columns * wave + phase))
    centre = (layer[:, 3].sum(-1) * rows[:, 0]).sum(-1) / layer[:, 3].sum((-1, -2)).clamp(min=1e-3)
    below = ((rows - centre[:, None, None] + 8) / 16).clamp(0, 1)
    return _resample(layer, torch.zeros_like(below), -drop * below)


def _bleed(layer: Tensor, rng: np.random.Generator) -> Tensor:
    """A foreign colour spreads over the sprite and out of its outline."""
    tint = torch.tensor(rng.permutation([rng.uniform(0.7, 1.0), rng.uniform(0.3, 0.7), rng.uniform(0.0, 0.2)]))
    halo = F.avg_pool2d(F.avg_pool2d(layer[:, 3:], 7, 1, 3), 7, 1, 3)
    side = torch.tensor(rng.normal(size=2))
    rows, columns = _pixel_axes(layer)
    slope = torch.tanh((side[0] * columns + side[1] * rows - (side.sum() * layer.shape[-1] / 2)) / 12)
    cover = (halo * (1.7 + 0.4 * slope)).clamp(0, 0.9).to(layer.dtype)
    stain = torch.cat([tint[:, None, None].to(layer.dtype) * cover, cover], dim=1)
    return stain + layer * (1 - cover)


def _noise(layer: Tensor, rng: np.random.Generator) -> Tensor:
    """The sprite breaks into coloured blocks, as in a damaged video stream; new ones every few frames."""
    cells = layer.shape[-1] // _BLOCK
    colours = torch.tensor(rng.uniform(0, 1, (len(layer), 3, cells, cells)), dtype=layer.dtype)
    held = (np.arange(len(layer)) + rng.integers(_HOLD)) // _HOLD  # which picture each frame shows
    box = F.interpolate((F.max_pool2d(layer[:, 3:], _BLOCK) > 0.5).to(layer.dtype), scale_factor=float(_BLOCK))
    cover = box * rng.uniform(0.7, 0.9)
    stain = torch.cat([F.interpolate(colours[held], scale_factor=float(_BLOCK)) * cover, cover], dim=1)
    return stain + layer * (1 - cover)


def _jerk(layer: Tensor, rng: np.random.Generator) -> Tensor:
    """The sprite leaves its path for two frames of every four, each time to another side."""
    runs = np.arange(len(layer)) // 2 + rng.integers(2)
    angle, distance = rng.uniform(0, 2 * math.pi, runs[-1] + 1)[runs], rng.uniform(7, 10)
    away = distance * (runs % 2)
    return _shift(layer, away * np.cos(angle), away * np.sin(angle))


def _ghost(layer: Tensor, rng: np.random.Generator) -> Tensor:
    """A translucent copy stands beside the sprite."""
    angle, distance = rng.uniform(0, 2 * math.pi), rng.uniform(8, 12)
    copy = _shift(layer, distance * math.cos(angle), distance * math.sin(angle)) * rng.uniform(0.75, 0.95)
    return layer + copy * (1 - layer[:, 3:])


CORRUPTIONS: dict[str, Callable[[Tensor, np.random.Generator], Tensor]] = {
    "flicker": _flicker,
    "smear": _smear,
    "melt": _melt,
    "bleed": _bleed,
    "noise": _noise,
    "jerk": _jerk,
    "ghost": _ghost,
}
KINDS = tuple(CORRUPTIONS)


def sample_events(scene: Scene, rng: np.random.Generator, rate: float) -> list[Event]:
    """Random events: each sprite is corrupted with probability `rate`, as often as its world tries."""
    shortest, longest = scene.world.event_frames
    events = []
    for sprite in [sprite for sprite in range(len(scene.spec.sprites)) for _ in range(scene.world.event_tries)]:
        if rng.uniform() >= rate:
            continue
        length = int(rng.integers(shortest, longest + 1))
        first = int(rng.integers(0, scene.world.num_frames - length + 1))
        event = Event(KINDS[rng.integers(len(KINDS))], sprite, first, first + length)
        events.append(_in_a_disc(event, scene, rng) if scene.world.event_reach else event)
    return events


def _in_a_disc(event: Event, scene: Scene, rng: np.random.Generator) -> Event:
    """The event, shown in a disc that lies somewhere on the sprite, rather near its edge.

    A ghost stands beside the sprite and is small as it is: a disc would hide nearly all of it.
    """
    assert scene.world.event_reach is not None
    if event.kind == "ghost":
        return event
    angle, distance = rng.uniform(0, 2 * math.pi), rng.uniform(0.3, 1.0) * scene.radius[event.sprite]
    away = (float(distance * math.cos(angle)), float(distance * math.sin(angle)))
    return replace(event, away=away, reach=float(rng.uniform(*scene.world.event_reach)))


def render_corrupted(scene: Scene, events: list[Event], rng: np.random.Generator) -> Tensor:
    """The clip of a scene with its events, one after another: video [3, F, H, W] in [-1, 1]."""
    layers = sprite_layers(scene).clone()
    for event in events:
        window = slice(event.first, event.last)
        layer = layers[event.sprite, window]
        corrupted = CORRUPTIONS[event.kind](layer, rng)
        layers[event.sprite, window] = torch.lerp(layer, corrupted, _disc(event, scene, layer))
    return render_layers(scene, layers)


def _disc(event: Event, scene: Scene, layer: Tensor) -> Tensor:
    """Where an event shows, [frames, 1, H, W] in [0, 1], with a soft edge; the disc moves with the sprite."""
    if event.reach == math.inf:
        return torch.ones_like(layer[:, :1])
    centres = torch.tensor(scene.paths()[event.sprite, event.first : event.last] + np.array(event.away))
    rows, columns = _pixel_axes(layer)
    distance = torch.hypot(columns - centres[:, 0, None, None], rows - centres[:, 1, None, None])
    return (0.5 + (event.reach - distance) / 2).clamp(0, 1)[:, None].to(layer.dtype)


def _pixel_axes(layer: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each pixel centre, [H, 1] and [1, W]."""
    axis = torch.arange(layer.shape[-1]) + 0.5
    return axis[:, None], axis[None, :]


def _shift(layer: Tensor, dx: float | np.ndarray, dy: float | np.ndarray) -> Tensor:
    """The layer moved by (dx, dy) pixels, the same for all frames or [F]."""
    field = torch.zeros_like(layer[:, 0])
    return _resample(layer, *(field - torch.as_tensor(move).reshape(-1, 1, 1) for move in (dx, dy)))


def _resample(layer: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """The layer read at each pixel plus (dx, dy), which are [F, H, W] in pixels."""
    rows, columns = _pixel_axes(layer)
    grid = torch.stack([columns + dx, rows + dy], dim=-1) * 2 / layer.shape[-1] - 1
    return F.grid_sample(layer, grid.to(layer.dtype), mode="bilinear", padding_mode="zeros", align_corners=False)
