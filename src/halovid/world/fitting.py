"""Finds the clean clip nearest to a given one, among all that its caption allows.

The path of each sprite is found by an exhaustive search on reduced frames, then by robust Gauss-Newton steps on the
pixels: first with the motion that the caption names, then with a small smooth bend of the path, which is no defect.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from halovid.world import render
from halovid.world.backgrounds import BEND, BEND_DEGREE, Background, time_powers
from halovid.world.scenes import DRIFT, MOTIONS, SceneSpec, SpriteSpec
from halovid.world.worlds import World

_MATCH_SCALE = 0.09  # mean squared colour error, of colours in [0, 1], at which the quality of a match is 0
_DOUBTFUL = 0.85  # quality below which a sprite is searched for again, behind those in front of it
_LOST = 0.1  # quality below which a sprite counts as not seen
_FOREGROUND = 0.02  # mean squared difference from the background at which a pixel surely shows something else
_HINT = 0.3  # score of a place where all pixels are foreground; a perfect match has 1
_REACH = 2  # reduced pixels by which the best match in a single frame may lie off the path of the whole clip


@dataclass(frozen=True)
class Fit:
    """The nearest clean clip of each of B clips with N sprites.

    frames: [B, F, 3, H, W] in [0, 1], the nearest clean rendering.
    coverage: [B, N, F, H, W] in [0, 1], how much of each pixel each sprite covers, occlusion ignored.
    path: [B, N, F, 2] sprite centres in pixels.  radius: [B, N] pixels.
    visibility: [B, N, F] in [0, 1], how well each sprite matches the clip at its path.
    """

    frames: Tensor
    coverage: Tensor
    path: Tensor
    visibility: Tensor
    radius: Tensor


def crop_size(world: World) -> int:
    """The side in pixels, odd, of a window with room for the largest picture of a sprite."""
    return 2 * math.ceil(world.radius["big"][1] * render.PICTURE_REACH) + 1


def fit_clean(frames: Tensor, found: Background, specs: Sequence[SceneSpec], world: World) -> Fit:
    """The clean rendering nearest to each clip among all scenes that its caption allows, without its light.

    Args:
        frames: [B, F, 3, H, W] in [0, 1], without the light of `found`.
        found: the background of each clip.
        specs: what the caption of each clip says.
    """
    background = found.picture
    sprites = [sprite for spec in specs for sprite in spec.sprites]
    pictures = render.pictures_of(sprites)
    middle = torch.tensor([sum(world.radius[sprite.size]) / 2 for sprite in sprites])
    kernels = _search_kernels(pictures, middle, world)
    foreground = ((frames - background).square().mean(2) / _FOREGROUND).clamp(max=1)  # [B, F, H, W]
    score = _match_score(frames, kernels, world) + _HINT * _overlap(foreground, kernels, world)
    paths = _locate(score, sprites, middle, world)
    motions = _motion_moves(sprites, world)
    bounds = torch.tensor([world.radius[sprite.size] for sprite in sprites])
    paths, radius = _polish(frames, background, pictures, motions, bounds, paths, middle, world)
    fit = _describe(frames, background, pictures, paths, radius, world)

    lost = fit.visibility.mean(-1).flatten() < _LOST
    if lost.any():  # search for sprites that match nowhere in the foreground that no other sprite covers
        covered = fit.coverage.flatten(0, 1) * ~lost[:, None, None, None]
        free = 1 - covered.unflatten(0, fit.coverage.shape[:2]).amax(1)
        score = score + _overlap(free * foreground, kernels, world)
        lost_sprites = [sprite for sprite, is_lost in zip(sprites, lost, strict=True) if is_lost]
        paths[lost] = _locate(score[lost], lost_sprites, middle[lost], world)
        fit = _describe(frames, background, pictures, paths, radius, world)

    hidden = _look_behind(frames, foreground, kernels, sprites, middle, fit, world)
    paths, radius = _polish(frames, background, pictures, motions, bounds, hidden, fit.radius.flatten(), world)
    fit = _nearer(frames, fit, _describe(frames, background, pictures, paths, radius, world))

    paths, radius = fit.path.flatten(0, 1), fit.radius.flatten()
    bends = _bend_moves(world).expand(len(sprites), -1, -1, -1)
    bent, radius = _polish(frames, background, pictures, bends, bounds, paths, radius, world)
    paths = paths + (bent - paths).clamp(-BEND, BEND)
    return _nearer(frames, fit, _describe(frames, background, pictures, paths, radius, world))


def _look_behind(
    frames: Tensor,
    foreground: Tensor,
    kernels: Tensor,
    sprites: Sequence[SpriteSpec],
    radius: Tensor,
    fit: Fit,
    world: World,
) -> Tensor:
    """The paths, [B * N, F, 2]; sprites that match badly are located again where none in front covers them."""
    paths = fit.path.flatten(0, 1).clone()
    clips, doubtful = torch.nonzero(fit.visibility.mean(-1) < _DOUBTFUL).T  # a clip and a sprite of it, [n] each
    if len(clips):
        in_front = torch.arange(fit.path.shape[1]) > doubtful[:, None]
        seen = 1 - (fit.coverage[clips] * in_front[:, :, None, None, None]).amax(1)  # [n, F, H, W]
        rows = clips * fit.path.shape[1] + doubtful
        score = _visible_score(frames[clips], seen, kernels[rows], world) + _HINT * _overlap(
            seen * foreground[clips], kernels[rows], world
        )
        paths[rows] = _locate(score, [sprites[row] for row in rows.tolist()], radius[rows], world)
    return paths


def _nearer(frames: Tensor, first: Fit, second: Fit) -> Fit:
    """For each clip the fit whose rendering is nearer."""
    errors = [(fit.frames - frames).square().mean((1, 2, 3, 4)) for fit in (first, second)]
    second_is_nearer = errors[1] < errors[0]
    pairs = [(getattr(first, field.name), getattr(second, field.name)) for field in dataclasses.fields(Fit)]
    return Fit(*(torch.where(second_is_nearer.view(-1, *[1] * (old.ndim - 1)), new, old) for old, new in pairs))


def _describe(frames: Tensor, background: Tensor, pictures: Tensor, paths: Tensor, radius: Tensor, world: World) -> Fit:
    """The clean clip with the sprites on `paths`, [n, F, 2], and how well each matches."""
    shape = (len(frames), len(paths) // len(frames))
    layers = render.place_pictures(pictures, paths, radius, world.frame_size).unflatten(0, shape)
    crops, local = crop_windows(frames, paths, crop_size(world))
    error = _crop_error(crops, render.place_pictures(pictures, local, radius, crop_size(world)))
    return Fit(
        frames=render.composite(background.expand_as(frames), layers.transpose(0, 1)),
        coverage=layers[:, :, :, 3],
        path=paths.unflatten(0, shape),
        visibility=(1 - error / _MATCH_SCALE).clamp(min=0).unflatten(0, shape),
        radius=radius.unflatten(0, shape),
    )


def _locate(score: Tensor, sprites: Sequence[SpriteSpec], radius: Tensor, world: World) -> Tensor:
    """The path of each sprite that collects the most of its score map: [n, F, 2] pixels."""
    paths = torch.empty(len(sprites), world.num_frames, 2)
    for motion in MOTIONS:
        chosen = [i for i, sprite in enumerate(sprites) if sprite.motion == motion]
        if chosen:
            rough = _search_paths(score[chosen], motion, radius[chosen], world)
            paths[chosen] = _refine_paths(score[chosen], motion, rough, world)
    return paths


def _search_kernels(pictures: Tensor, radius: Tensor, world: World) -> Tensor:
    """Each picture in the middle of a window, reduced for the search: premultiplied RGBA [n, 4, c, c]."""
    size = crop_size(world) // world.search_scale | 1  # odd
    centre = torch.full((len(pictures), 1, 2), size / 2)
    return render.place_pictures(pictures, centre, radius / world.search_scale, size)[:, 0]


def _reduced(frames: Tensor, world: World) -> Tensor:
    """[B, F, C, H, W] as the search looks at them, smaller by `world.search_scale`."""
    return F.avg_pool2d(frames.flatten(0, 1), world.search_scale).unflatten(0, frames.shape[:2])


def _match_score(frames: Tensor, kernels: Tensor, world: World) -> Tensor:
    """How well each sprite matches at each reduced pixel: [B * N, F, H, W] in [0, 1].

    The mean squared colour error is computed by correlations: sum a (I - c)^2 = sum a I^2 - 2 sum (a c) I + sum a c^2.
    """
    colour, alpha = kernels[:, :3], kernels[:, 3:]
    constant = (colour.square() / alpha.clamp(min=1e-3)).sum((1, 2, 3))
    small = _reduced(frames, world)
    signal = torch.cat([small.square().sum(2, keepdim=True), small], dim=2)
    value = _correlate(signal, torch.cat([alpha, -2 * colour], dim=1))
    cost = (value + constant[:, None, None, None]) / (3 * alpha.sum((1, 2, 3))[:, None, None, None])
    return (1 - cost / _MATCH_SCALE).clamp(0, 1)


def _visible_score(frames: Tensor, seen: Tensor, kernels: Tensor, world: World) -> Tensor:
    """`_match_score` of a sprite per clip from the pixels `seen` [n, F, H, W] alone, times their share of it."""
    colour, alpha = kernels[:, :3], kernels[:, 3:]
    constant = (colour.square() / alpha.clamp(min=1e-3)).sum(1, keepdim=True)
    small = _reduced(frames, world)
    mask = _reduced(seen[:, :, None], world)
    signal = torch.cat([mask * small.square().sum(2, keepdim=True), mask * small, mask], dim=2)
    value = _correlate(signal, torch.cat([alpha, -2 * colour, constant], dim=1))
    visible = _correlate(mask, alpha)
    score = (1 - value / (3 * visible.clamp(min=1e-3)) / _MATCH_SCALE).clamp(0, 1)
    return score * visible / alpha.sum((1, 2, 3))[:, None, None, None]


def _overlap(mask: Tensor, kernels: Tensor, world: World) -> Tensor:
    """Share of each sprite, centred at each reduced pixel, that lies in a mask [B, F, H, W]: [B * N, F, H, W]."""
    alpha = kernels[:, 3:]
    return _correlate(_reduced(mask[:, :, None], world), alpha / alpha.sum((1, 2, 3), keepdim=True))


def _correlate(signal: Tensor, kernels: Tensor) -> Tensor:
    """Correlation of each clip's frames [B, F, C, H, W] with its own kernels [B * N, C, c, c]: [B * N, F, H, W]."""
    per_clip = zip(signal, kernels.unflatten(0, (len(signal), -1)), strict=True)
    return torch.cat([F.conv2d(frames, own, padding=own.shape[-1] // 2).transpose(0, 1) for frames, own in per_clip])


@functools.cache
def _hypotheses(motion: str, world: World) -> tuple[Tensor, Tensor]:
    """Offsets from the start for all speeds and phases tried, [H, F, 2] in pixels; and the basis of the motion.

    The basis, [K, F, 2], spans the displacements of the motion: a path is start + weights @ basis.
    """
    frames = torch.arange(world.num_frames)
    angle = 2 * math.pi * frames / world.period
    zero = torch.zeros(world.num_frames)
    if motion in DRIFT:
        basis = (frames[:, None] * torch.tensor(DRIFT[motion]))[None]
        weights = torch.linspace(*world.speed, 8)[:, None]
        return torch.einsum("hk,kfd->hfd", weights, basis), basis
    wave = {"sways": (angle.cos(), -angle.sin()), "bobs": (angle.sin(), angle.cos())}
    if motion == "orbits":
        basis = torch.stack([torch.stack([angle.cos(), angle.sin()], -1), torch.stack([-angle.sin(), angle.cos()], -1)])
    else:
        pairs = [(w, zero) if motion == "sways" else (zero, w) for w in wave[motion]]
        basis = torch.stack([torch.stack(pair, -1) for pair in pairs])
    phase = torch.arange(16) * 2 * math.pi / 16
    amplitude = torch.linspace(*world.swing, 3)
    weights = torch.cartesian_prod(amplitude, phase)
    weights = torch.stack([weights[:, 0] * weights[:, 1].cos(), weights[:, 0] * weights[:, 1].sin()], -1)
    return torch.einsum("hk,kfd->hfd", weights, basis), basis


def _search_paths(score: Tensor, motion: str, radius: Tensor, world: World) -> Tensor:
    """The path of greatest total score over all starts, speeds and phases: [n, F, 2] pixels.

    The sum of shifted score maps is taken in the Fourier domain, so shifts need not be whole pixels.
    """
    size, scale = score.shape[-1], world.search_scale
    offsets = _hypotheses(motion, world)[0] / scale
    spectrum = torch.fft.rfft2(score).flatten(2)  # [n, F, K]
    rows = torch.fft.fftfreq(size)[:, None]
    columns = torch.fft.rfftfreq(size)[None]
    turn = offsets[..., 0, None, None] * columns + offsets[..., 1, None, None] * rows
    shift = torch.polar(torch.ones(()), 2 * math.pi * turn.flatten(2))  # [H, F, K]
    total = torch.einsum("nfk,hfk->nhk", spectrum, shift).unflatten(2, (size, -1))
    total = torch.fft.irfft2(total, s=(size, size))  # [n, H, rows, columns]
    axis = torch.arange(size)
    low = radius[:, None, None] / scale - 1 - offsets.min(1).values  # sprites stay inside the frame
    high = size - radius[:, None, None] / scale - offsets.max(1).values
    inside = (axis >= low[..., None]) & (axis <= high[..., None])  # [n, H, 2, size]
    allowed = inside[:, :, 1, :, None] & inside[:, :, 0, None, :]
    best = total.masked_fill(~allowed, -torch.inf).flatten(1).argmax(1)
    hypothesis, row, column = torch.unravel_index(best, total.shape[1:])
    return (torch.stack([column, row], -1)[:, None] + 0.5 + offsets[hypothesis]) * scale


def _refine_paths(score: Tensor, motion: str, paths: Tensor, world: World) -> Tensor:
    """The paths moved to the best matches of the single frames near them, by robust least squares."""
    _, basis = _hypotheses(motion, world)
    design = torch.cat([torch.eye(2)[:, None].expand(2, world.num_frames, 2), basis]).flatten(1)  # [2 + K, F * 2]
    for _ in range(3):
        peaks, quality = _local_peaks(score, paths, _REACH, world)
        weight = quality
        for _ in range(3):
            repeated = weight[..., None].expand(-1, -1, 2).flatten(1)
            normal = torch.einsum("kp,np,lp->nkl", design, repeated, design) + 1e-4 * torch.eye(len(design))
            moment = torch.einsum("kp,np->nk", design, repeated * (peaks - paths).flatten(1))
            change = torch.linalg.solve(normal, moment) @ design
            moved = paths + change.unflatten(1, (world.num_frames, 2))
            weight = quality / (1 + ((peaks - moved).norm(dim=-1) / 0.5).square())
        paths = moved
    return paths


def _local_peaks(score: Tensor, paths: Tensor, reach: int, world: World) -> tuple[Tensor, Tensor]:
    """The best match of each frame within `reach` reduced pixels of the path, and its score.

    Returns:
        [n, F, 2] in pixels, to a fraction of one, and [n, F].
    """
    size = score.shape[-1]
    steps = torch.arange(-reach, reach + 1)
    near = (paths / world.search_scale - 0.5).round().long()
    columns = (near[..., 0, None] + steps).clamp(0, size - 1)
    rows = (near[..., 1, None] + steps).clamp(0, size - 1)
    first = torch.arange(len(score))[:, None, None, None]
    second = torch.arange(world.num_frames)[None, :, None, None]
    window = score[first, second, rows[..., :, None], columns[..., None, :]]  # [n, F, side, side]
    top = window.flatten(2).max(-1).values
    weight = (window - 0.9 * top[..., None, None]).clamp(min=0) + 1e-9  # position: the centroid of the peak's top
    total = weight.sum((-1, -2))
    x = (weight.sum(-2) * columns).sum(-1) / total + 0.5
    y = (weight.sum(-1) * rows).sum(-1) / total + 0.5
    return torch.stack([x, y], -1) * world.search_scale, top


def _motion_moves(sprites: Sequence[SpriteSpec], world: World) -> Tensor:
    """Displacements by which each path can change its start and its speed, or amplitude and phase: [n, 4, F, 2]."""
    bases = [_hypotheses(sprite.motion, world)[1] for sprite in sprites]
    shifts = torch.eye(2)[:, None].expand(2, world.num_frames, 2)
    return torch.stack(  # shifts in two directions, then the one or two of the motion
        [torch.cat([shifts, basis, torch.zeros(2 - len(basis), world.num_frames, 2)]) for basis in bases]
    )


def _bend_moves(world: World) -> Tensor:
    """Displacements by which any path can bend smoothly: polynomials in time in both directions, [K, F, 2]."""
    return torch.einsum("kf,ed->kefd", time_powers(world, BEND_DEGREE), torch.eye(2)).flatten(0, 1)


def _polish(
    frames: Tensor,
    background: Tensor,
    pictures: Tensor,
    moves: Tensor,
    bounds: Tensor,
    paths: Tensor,
    radius: Tensor,
    world: World,
) -> tuple[Tensor, Tensor]:
    """Paths and radii moved to the nearest clean rendering by robust Gauss-Newton steps on the pixels.

    A pixel that the clean sprite does not explain (a defect, another sprite) loses its weight.

    Args:
        moves: [n, K, F, 2] displacements; each path changes by a combination of its own.
        bounds: [n, 2], the smallest and the largest radius of each sprite.
    """
    low, high = bounds.T
    clips = torch.arange(len(paths)) // (len(paths) // len(frames))
    times = torch.arange(0, world.num_frames, 2)  # every other frame is enough for a path of a few parameters
    times_of = times.expand(len(paths), -1)
    size, backdrop_times = crop_size(world), times_of.clamp(max=background.shape[1] - 1)
    # what each parameter changes in each frame: the first K the position (x, y), the last the radius
    effects = F.pad(F.pad(moves[:, :, times], (0, 1)), (0, 0, 0, 0, 0, 1))  # [n, K + 1, F, 3]
    effects[:, -1, :, 2] = 1
    for _ in range(4):
        crops, local = crop_windows(frames, paths[:, times], size, clips, times_of)
        backdrop, _ = crop_windows(background, paths[:, times], size, clips, backdrop_times)

        view = functools.partial(view_windows, pictures, backdrop)
        rendered, step = view(local, radius), 0.25
        error = crops - rendered
        varied = [view(local + shift, radius) for shift in step * torch.eye(2)] + [view(local, radius + step)]
        slopes = ((torch.stack(varied, 2) - rendered[:, :, None]) / step).flatten(3)  # [n, F, 3, pixels]
        weight = 1 / (1 + error.square().sum(2, keepdim=True) / 0.06).square()
        weighted = slopes * weight.expand_as(error).flatten(2)[:, :, None]
        normal = torch.einsum("nkfi,nfij,nlfj->nkl", effects, weighted @ slopes.mT, effects)
        normal = normal + torch.diag_embed(normal.diagonal(dim1=1, dim2=2) * 0.01 + 1e-3)
        moment = torch.einsum("nkfi,nfi->nk", effects, (weighted @ error.flatten(2)[..., None])[..., 0])
        change = torch.linalg.solve(normal, moment)
        paths = paths + torch.einsum("nk,nkfd->nfd", change[:, :-1], moves).clamp(-1, 1)
        radius = (radius + change[:, -1].clamp(-1, 1)).clamp(low, high)
    return paths, radius


def view_windows(pictures: Tensor, backdrop: Tensor, local: Tensor, radius: Tensor) -> Tensor:
    """Windows with each sprite drawn over the backdrop at its positions: [n, K, 3, crop, crop]."""
    layer = render.place_pictures(pictures, local, radius, backdrop.shape[-1])
    return layer[:, :, :3] + (1 - layer[:, :, 3:]) * backdrop


def crop_windows(
    frames: Tensor, paths: Tensor, size: int, clips: Tensor | None = None, times: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Windows around points, [n, K, 3, size, size], and each point's position in its window, [n, K, 2].

    Args:
        frames: [B, F, 3, H, W].
        paths: [n, K, 2] pixels.
        size: of a window in pixels, odd.
        clips: [n] the clip of each path; in order and equally many of each when left out.
        times: [n, K] the frame of each point; all frames when left out.
    """
    pad = size // 2
    padded = F.pad(frames, (pad, pad, pad, pad)).permute(0, 1, 3, 4, 2)
    corner = paths.floor().long().clamp(0, frames.shape[-1] - 1)
    axis = torch.arange(size)
    rows, columns = corner[..., 1, None] + axis, corner[..., 0, None] + axis
    clips = torch.arange(len(paths)) // (len(paths) // len(frames)) if clips is None else clips
    times = torch.arange(frames.shape[1]).expand(len(paths), -1) if times is None else times
    crops = padded[clips[:, None, None, None], times[..., None, None], rows[..., :, None], columns[..., None, :]]
    return crops.permute(0, 1, 4, 2, 3), paths - corner + pad


def _crop_error(crops: Tensor, layer: Tensor) -> Tensor:
    """Mean squared colour error of each sprite at its position in each frame: [n, F]."""
    alpha = layer[:, :, 3:]
    error = (alpha * crops - layer[:, :, :3]).square() / alpha.clamp(min=1e-2)
    return error.sum((2, 3, 4)) / (3 * alpha.sum((2, 3, 4)))
