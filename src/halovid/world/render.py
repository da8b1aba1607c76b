"""Renderer of the embedded worlds: sprites are small RGBA pictures, drawn by bilinear sampling.

All functions are pure functions of tensors, so the inspector can call them with the positions that it estimates.
Colours are in [0, 1] here; clips leave this package as `video` [3, F, H, W] in [-1, 1].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from halovid.world.scenes import COLOURS, SHAPES, TEXTURE_SIZE, TEXTURES, Scene, SpriteSpec

PICTURE_SIZE = 56  # pixels of a sprite's picture; its disc of radius 1 spans PICTURE_SIZE / PICTURE_REACH
PICTURE_REACH = 1.25  # half the side of a picture, in sprite radii: a margin for the soft edge
_SOFTNESS = 0.1  # half the width of an edge, in radii: an edge is about two screen pixels wide
_SHADE = 0.55  # brightness of the dark tone of a texture

_PALETTE = {
    "red": (0.90, 0.15, 0.15),
    "orange": (0.98, 0.55, 0.08),
    "yellow": (0.97, 0.90, 0.15),
    "green": (0.15, 0.75, 0.25),
    "cyan": (0.20, 0.85, 0.90),
    "blue": (0.20, 0.35, 0.95),
    "magenta": (0.90, 0.25, 0.80),
    "white": (0.95, 0.95, 0.95),
}
_BACKDROPS = {
    "grey": (0.24, 0.24, 0.24),
    "navy": (0.06, 0.09, 0.22),
    "brown": (0.27, 0.18, 0.10),
    "forest": (0.06, 0.20, 0.12),
    "plum": (0.22, 0.09, 0.22),
}
# the texture of each background: waves of (periods along x, along y, phase in turns) on a square of TEXTURE_SIZE
_WAVES = {
    "grey": ((3, 1, 0.0), (1, -3, 0.3), (-2, 2, 0.6), (4, 3, 0.1)),
    "navy": ((1, 4, 0.0), (-1, 5, 0.4), (2, 3, 0.7)),
    "brown": ((3, 3, 0.0), (4, 2, 0.5), (1, 1, 0.2)),
    "forest": ((4, 0, 0.0), (0, 4, 0.3), (3, -3, 0.8), (2, 5, 0.5)),
    "plum": ((5, 1, 0.0), (4, -1, 0.6), (2, 2, 0.1)),
}
_CONTRAST = 1.5  # how sharply the bright and the dark parts of a texture meet


def _polygon_distance(x: Tensor, y: Tensor, num_sides: int, apothem: float, turn: float) -> Tensor:
    """Signed distance to the sides of a regular polygon; negative inside."""
    angles = turn + 2 * math.pi * torch.arange(num_sides) / num_sides
    sides = x[..., None] * torch.cos(angles) + y[..., None] * torch.sin(angles)
    return sides.amax(-1) - apothem


def _shape_distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance in radii to the edge of a shape; all shapes fit the unit disc (the square nearly)."""
    radius = torch.hypot(x, y)
    if shape == "circle":
        return radius - 0.95
    if shape == "ring":
        return torch.maximum(radius - 1.0, 0.45 - radius)
    if shape == "square":
        return _polygon_distance(x, y, 4, 0.8, 0.0)
    if shape == "diamond":
        return _polygon_distance(x, y, 4, 0.72, math.pi / 4)
    if shape == "triangle":
        return _polygon_distance(x, y - 0.2, 3, 0.56, math.pi / 2)
    horizontal = torch.maximum(x.abs() - 1.0, y.abs() - 0.42)
    vertical = torch.maximum(x.abs() - 0.42, y.abs() - 1.0)
    return torch.minimum(horizontal, vertical)


def _soft_step(distance: Tensor) -> Tensor:
    """1 well inside (negative distance), 0 well outside, a ramp over one edge width."""
    return (0.5 - distance / (2 * _SOFTNESS)).clamp(0, 1)


def _texture_tone(texture: str, x: Tensor, y: Tensor) -> Tensor:
    """Brightness of a texture in [_SHADE, 1]; its finest feature is 2/3 of a radius, about 6 pixels."""
    if texture == "plain":
        bright = torch.ones_like(x)
    elif texture == "striped":
        bright = 1 - _soft_step(x.abs() - 0.33)
    elif texture == "checked":
        signed = torch.where(x * y > 0, 1.0, -1.0) * torch.minimum(x.abs(), y.abs())
        bright = _soft_step(signed)
    else:
        bright = (0.5 - 0.6 * y).clamp(0, 1)
    return _SHADE + (1 - _SHADE) * bright


@functools.cache
def _tones() -> tuple[Tensor, Tensor]:
    """Coverage of each shape [shapes, S, S] and brightness of each texture [textures, S, S]."""
    axis = (torch.arange(PICTURE_SIZE) + 0.5) / PICTURE_SIZE * 2 - 1
    y, x = torch.meshgrid(axis * PICTURE_REACH, axis * PICTURE_REACH, indexing="ij")
    coverage = torch.stack([_soft_step(_shape_distance(shape, x, y)) for shape in SHAPES])
    tone = torch.stack([_texture_tone(texture, x, y) for texture in TEXTURES])
    return coverage, tone


def sprite_pictures(shape: Tensor, texture: Tensor, colour: Tensor) -> Tensor:
    """Premultiplied RGBA pictures of sprites, [..., 4, S, S] in [0, 1].

    Args:
        shape, texture: [...] indices into SHAPES and TEXTURES.
        colour: [..., 3] in [0, 1].
    """
    coverage, tone = _tones()
    alpha = coverage[shape][..., None, :, :]
    return torch.cat([alpha * tone[texture][..., None, :, :] * colour[..., None, None], alpha], dim=-3)


def palette() -> Tensor:
    """The sprite colours, [colours, 3] in [0, 1], in the order of COLOURS."""
    return torch.tensor([_PALETTE[name] for name in COLOURS])


def pictures_of(sprites: Sequence[SpriteSpec]) -> Tensor:
    """`sprite_pictures` of specs: [N, 4, S, S]."""
    shape = torch.tensor([SHAPES.index(sprite.shape) for sprite in sprites])
    texture = torch.tensor([TEXTURES.index(sprite.texture) for sprite in sprites])
    return sprite_pictures(shape, texture, torch.tensor([_PALETTE[sprite.colour] for sprite in sprites]))


def place_pictures(pictures: Tensor, centres: Tensor, radius: Tensor, size: int) -> Tensor:
    """Layers with each picture at each of its centres, [n, K, 4, size, size], premultiplied.

    Args:
        pictures: [n, 4, S, S].
        centres: [n, K, 2] x, y in pixels of the layer (the first pixel's centre is 0.5).
        radius: [n] pixels.
    """
    axis = torch.arange(size) + 0.5
    away = (axis - centres[..., None]) / (radius * PICTURE_REACH)[:, None, None, None]  # [n, K, 2, size]
    count = centres.shape[1]
    grid = torch.stack(
        [
            away[:, :, 0, None, :].expand(-1, -1, size, -1),
            away[:, :, 1, :, None].expand(-1, -1, -1, size),
        ],
        dim=-1,
    )
    tall = F.grid_sample(pictures, grid.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=False)
    return tall.unflatten(2, (count, size)).transpose(1, 2)


def background_basis(size: int) -> Tensor:
    """The functions that a background is a combination of, [3, size, size]: constant, x and y in [-1, 1]."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([torch.ones_like(x), x, y])


def background_colour(name: str) -> Tensor:
    """The colour of a background at the centre of the frame, [3] in [0, 1]."""
    return torch.tensor(_BACKDROPS[name])


def light_ramp(slope: Tensor, size: int) -> Tensor:
    """How bright the light is at each pixel, [..., H, W]: 1 at the centre, 1 + slope at the right and bottom edge.

    Args:
        slope: [..., 2] along x and y.
    """
    weights = torch.cat([torch.ones_like(slope[..., :1]), slope], dim=-1)
    return torch.einsum("...k,khw->...hw", weights, background_basis(size))


def texture_at(name: str, x: Tensor, y: Tensor) -> Tensor:
    """The texture of a background at points, in pixels of its own plane: -1 (dark) to 1 (bright), mean about 0."""
    turns = [(across * x + down * y) / TEXTURE_SIZE + phase for across, down, phase in _WAVES[name]]
    return torch.tanh(_CONTRAST * torch.stack([torch.cos(2 * math.pi * turn) for turn in turns]).mean(0))


def texture_views(name: str, views: Tensor, size: int, stride: int = 1) -> Tensor:
    """The texture of a background as a camera sees it, [..., size, size].

    Args:
        views: [..., 2] x, y in pixels, the place of the texture at the corner of the frame.
        stride: give every stride-th row and column only, [..., h, w], from number `stride // 2` on.
    """
    axis = torch.arange(stride // 2, size, stride) + 0.5
    return texture_at(name, axis[None, :] + views[..., 0, None, None], axis[:, None] + views[..., 1, None, None])


def render_background(scene: Scene) -> Tensor:
    """The background of a scene without its light, [F, 3, H, W]; [1, 3, H, W] in a world where it is plain."""
    world = scene.world
    colour = (background_colour(scene.spec.background) * world.brightness)[:, None, None]
    if not world.texture:
        return colour.expand(1, 3, world.frame_size, world.frame_size)
    views = torch.tensor(scene.views(), dtype=torch.float32)
    return colour * (1 + world.texture * texture_views(scene.spec.background, views, world.frame_size)[:, None])


def sprite_layers(scene: Scene) -> Tensor:
    """Every sprite alone on nothing: premultiplied RGBA [N, F, 4, H, W]."""
    paths = torch.tensor(scene.paths(), dtype=torch.float32)
    radius = torch.tensor(scene.radius, dtype=torch.float32)
    return place_pictures(pictures_of(scene.spec.sprites), paths, radius, scene.world.frame_size)


def composite(background: Tensor, layers: Tensor) -> Tensor:
    """The clip that shows `layers` over `background`, later layers in front.

    Args:
        background: [..., 3, H, W] in [0, 1].
        layers: [N, ..., 4, H, W], premultiplied.

    Returns:
        [..., 3, H, W] in [0, 1].
    """
    picture = background
    for layer in layers:
        picture = layer[..., :3, :, :] + picture * (1 - layer[..., 3:, :, :])
    return picture.clamp(0, 1)


def to_video(frames: Tensor) -> Tensor:
    """[..., F, 3, H, W] in [0, 1] -> video [..., 3, F, H, W] in [-1, 1]."""
    return frames.transpose(-4, -3) * 2 - 1


def render_layers(scene: Scene, layers: Tensor) -> Tensor:
    """The clip of a scene whose sprites look like `layers`, [N, F, 4, H, W]: video [3, F, H, W] in [-1, 1]."""
    light = light_ramp(torch.tensor(scene.slope, dtype=torch.float32), scene.world.frame_size)
    background = render_background(scene)
    if scene.world.lit:
        return to_video((composite(background, layers) * light).clamp(0, 1))
    return to_video(composite((background * light).clamp(0, 1), layers))


def render_scene(scene: Scene) -> Tensor:
    """The clean clip of a scene: video [3, F, H, W] in [-1, 1]."""
    return render_layers(scene, sprite_layers(scene))
