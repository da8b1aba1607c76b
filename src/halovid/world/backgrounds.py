"""Finds the background of a clip: its light and, where the camera moves over a texture, what each frame shows of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from halovid.world import render
from halovid.world.scenes import TEXTURE_SIZE, SceneSpec
from halovid.world.worlds import World

BEND = 1.5  # pixels by which the camera or a sprite may stray, smoothly, from its exact path
BEND_DEGREE = 3  # of the polynomial in time by which it strays
_FREQUENCIES = 12  # periods per TEXTURE_SIZE, along x and along y, that the search for the camera looks at
_PLACES = 64  # along x and y, at which the search looks for the first view
_PAN_STEPS = 9  # speeds tried along x and along y
_COLOUR_SCALE = 0.05  # difference from the background's hue at which a pixel surely shows something else
_ERROR_SCALE = 0.12  # relative brightness error of a pixel at which it loses its weight in the fit
_STRIDE = 3  # every third pixel is enough for a path of a few parameters


@dataclass(frozen=True)
class Background:
    """The backgrounds of B clips.

    picture: [B, F, 3, H, W] in [0, 1], without `light`; [B, 1, 3, H, W] in a world whose frames all have the same.
    light: by which the whole clip is brighter, [B, 1, 1, H, W]; [B, 1, 1, 1, 1] ones in a world that lights no sprites.
    """

    picture: Tensor
    light: Tensor


def fit_background(frames: Tensor, specs: Sequence[SceneSpec], world: World) -> Background:
    """The backgrounds nearest to those of clips, sprites left out as outliers.

    Args:
        frames: [B, F, 3, H, W] in [0, 1].
    """
    colour = torch.stack([render.background_colour(spec.background) for spec in specs]) * world.brightness
    if world.texture:
        return _fit_panorama(frames, specs, colour, world)
    ramp = _fit_ramp(frames, colour)
    picture = (colour[:, None, :, None, None] * ramp[:, None, None]).clamp(0, 1)
    return Background(picture, torch.ones(len(specs), 1, 1, 1, 1))


def time_powers(world: World, degree: int) -> Tensor:
    """The powers of time up to a degree, of which a smooth path is a combination: [degree + 1, F]."""
    return torch.linspace(-1, 1, world.num_frames) ** torch.arange(degree + 1)[:, None]


def _fit_ramp(frames: Tensor, colour: Tensor) -> Tensor:
    """The light over the median frame of each clip: [B, H, W]."""
    still = frames.median(dim=1).values
    size = still.shape[-1]
    basis = render.background_basis(size).flatten(1)
    # brightness of each pixel in units of the backdrop's colour: 1 + slope . position where no sprite is
    shade = torch.einsum("bchw,bc->bhw", still, colour) / colour.square().sum(1)[:, None, None]
    shade = shade.flatten(1)
    weight = torch.ones_like(shade)
    slope = torch.zeros(len(still), 2)
    for _ in range(6):
        weighted = weight[:, None] * basis[1:]
        normal = weighted @ basis[1:].T
        slope = torch.linalg.solve(normal, (weighted * (shade - 1)[:, None]).sum(-1))
        error = shade - 1 - slope @ basis[1:]
        weight = 1 / (1 + (error / 0.1).square()).square()
    return (1 + slope @ basis[1:]).unflatten(1, (size, size))


def _fit_panorama(frames: Tensor, specs: Sequence[SceneSpec], colour: Tensor, world: World) -> Background:
    """`fit_background` in a world where the camera moves over a texture."""
    brightness = torch.einsum("bfchw,bc->bfhw", frames, colour) / colour.square().sum(1)[:, None, None, None]
    other_hue = (frames - brightness[:, :, None] * colour[:, None, :, None, None]).square().sum(2).sqrt()
    certain = (1 - other_hue / _COLOUR_SCALE).clamp(min=0)  # [B, F, H, W], how surely a pixel shows the background
    names = [spec.background for spec in specs]
    light = torch.ones(len(specs), 1, 1, 1)
    for _ in range(2):  # first without knowing the light, under which another place may look nearer
        seen = ((brightness / light - 1) / world.texture).clamp(-1, 1)
        views = _search_views(seen, certain, names, world)
        views, slope = _refine_views(brightness, certain, names, views, world)
        light = render.light_ramp(slope, world.frame_size)[:, None]
    texture = torch.stack([render.texture_views(n, v, world.frame_size) for n, v in zip(names, views, strict=True)])
    picture = colour[:, None, :, None, None] * (1 + world.texture * texture[:, :, None])
    return Background(picture.clamp(0, 1), light[:, None])


def _search_views(seen: Tensor, certain: Tensor, names: Sequence[str], world: World) -> Tensor:
    """The even camera path whose views of the texture are nearest to what is seen, [B, F, 2] in pixels.

    The sum of squared differences is taken in the Fourier domain, at all places at once, for each of a grid of speeds;
    a speed turns the phases of frame f by f times as much.

    Args:
        seen, certain: [B, F, H, W], the texture as the frames show it, and the weight of each pixel.
    """
    order = torch.arange(-_FREQUENCIES, _FREQUENCIES + 1)
    frame = _waves(order, world.frame_size)
    whole = _waves(order, TEXTURE_SIZE)
    axis = torch.arange(TEXTURE_SIZE) + 0.5
    known = {name: render.texture_at(name, axis[None, :], axis[:, None]) for name in set(names)}
    textures = torch.stack([known[name] for name in names])
    # certain (seen - texture)^2 = certain texture^2 - 2 certain seen texture + what is the same at all places
    product = _spectrum(textures, whole)[:, None] * _spectrum(certain * seen, frame).conj()
    square = _spectrum(textures.square(), whole)[:, None] * _spectrum(certain, frame).conj()
    agreement = product - square / 2  # [B, F, q, p], rows and columns of frequencies

    pans = torch.cartesian_prod(*[torch.linspace(-world.pan, world.pan, _PAN_STEPS)] * 2) * 1.1  # x, y
    frames = torch.arange(world.num_frames)
    turn = 2 * math.pi * frames[:, None] * order / TEXTURE_SIZE  # [F, k] of one pixel per frame
    across, down = (torch.polar(torch.ones(()), pans[:, axis, None, None] * turn) for axis in (0, 1))  # [V, F, k]
    moved = torch.einsum("bfqp,vfq,vfp->bvqp", agreement, down, across)
    place = torch.arange(_PLACES) * TEXTURE_SIZE / _PLACES
    back = torch.polar(torch.ones(()), 2 * math.pi * order[:, None] * place / TEXTURE_SIZE)
    total = torch.einsum("bvqp,qy,px->bvyx", moved, back, back).real
    speed, row, column = torch.unravel_index(total.flatten(1).argmax(1), total.shape[1:])
    first = torch.stack([place[column], place[row]], -1)
    return first[:, None] + frames[:, None] * pans[speed][:, None]


def _waves(order: Tensor, size: int) -> Tensor:
    """The waves of so many periods per TEXTURE_SIZE at each pixel, [k, size] complex."""
    turns = order[:, None] * (torch.arange(size) + 0.5) / TEXTURE_SIZE
    return torch.polar(torch.ones(()), -2 * math.pi * turns)


def _spectrum(pictures: Tensor, waves: Tensor) -> Tensor:
    """The Fourier coefficients of pictures [..., H, W] by rows and columns, [..., k, k]."""
    return waves @ pictures.to(waves.dtype) @ waves.T


def _refine_views(
    brightness: Tensor, certain: Tensor, names: Sequence[str], views: Tensor, world: World
) -> tuple[Tensor, Tensor]:
    """The views and the slope of the light, [B, F, 2] and [B, 2], by robust Gauss-Newton steps on the brightness.

    First the camera may only move evenly; then its path may bend smoothly by up to BEND.
    """
    rows = slice(_STRIDE // 2, None, _STRIDE)
    target, trust = brightness[:, :, rows, rows], certain[:, :, rows, rows]
    slope = torch.zeros(len(views), 2)
    for degree, steps in ((1, 6), (BEND_DEGREE, 4)):
        even, powers = views, time_powers(world, degree)
        for _ in range(steps):
            move, tilt = _view_step(target, trust, names, views, slope, powers, world)
            views = views + move.clamp(-2, 2)
            slope = (slope + tilt).clamp(-2 * world.slope, 2 * world.slope)
        if degree > 1:
            views = even + (views - even).clamp(-BEND, BEND)
    return views, slope


def _view_step(
    target: Tensor,
    trust: Tensor,
    names: Sequence[str],
    views: Tensor,
    slope: Tensor,
    powers: Tensor,
    world: World,
) -> tuple[Tensor, Tensor]:
    """One step of `_refine_views`: by how much the views and the slope change, [B, F, 2] and [B, 2].

    Args:
        target, trust: [B, F, h, w], the brightness of every `_STRIDE`-th pixel and how surely it is the background's.
        powers: [degrees, F], of which the camera's move along each axis is a combination.
    """
    rows = slice(_STRIDE // 2, None, _STRIDE)
    position = render.background_basis(world.frame_size)[1:, rows, rows]  # [2, h, w]
    light = 1 + torch.einsum("bk,khw->bhw", slope, position)[:, None]
    here = _strided_texture(names, views, world)
    relief = 1 + world.texture * here
    error = target - light * relief
    weight = trust / (1 + (error / _ERROR_SCALE).square()).square()
    beside = [_strided_texture(names, views + 0.5 * axis, world) - here for axis in torch.eye(2)]
    by_view = torch.stack(beside, 1) * 2 * world.texture * light[:, None]  # [B, 2, F, h, w]
    moves = torch.einsum("bdfhw,kf->bkdfhw", by_view, powers).flatten(1, 2)
    tilts = position[None, :, None] * relief[:, None]
    slopes = torch.cat([moves, tilts], 1).flatten(2)  # [B, parameters, pixels]
    weighted = slopes * weight.flatten(1)[:, None]
    normal = weighted @ slopes.mT
    normal = normal + torch.diag_embed(normal.diagonal(dim1=1, dim2=2) * 0.01 + 1e-3)
    change = torch.linalg.solve(normal, (weighted @ error.flatten(1)[..., None])[..., 0])
    move = torch.einsum("bkd,kf->bfd", change[:, :-2].unflatten(1, (len(powers), 2)), powers)
    return move, change[:, -2:]


def _strided_texture(names: Sequence[str], views: Tensor, world: World) -> Tensor:
    """The textures that the views show at every `_STRIDE`-th pixel: [B, F, h, w]."""
    pairs = zip(names, views, strict=True)
    return torch.stack([render.texture_views(name, view, world.frame_size, _STRIDE) for name, view in pairs])
