"""The inspector of the embedded world: the true defects of a clip, from its caption and its pixels alone.

The caption gives the attributes of every sprite, not its position. `fitting` finds the nearest clean clip; the
inspector measures how far the clip is from it, patch by patch. `docs/world.md` says how well this is validated and what
it cannot see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from halovid.maths.grid import LatentGeometry, PatchGrid, pool_pixels
from halovid.world import render
from halovid.world.backgrounds import Background, fit_background
from halovid.world.fitting import Fit, crop_size, crop_windows, fit_clean, view_windows
from halovid.world.scenes import COLOURS, SHAPES, TEXTURES, SceneSpec
from halovid.world.worlds import World, world_of

GEOMETRY = LatentGeometry(temporal_stride=4, spatial_stride=8, causal_first_frame=True)
_PRESENT = 0.35  # match quality in a sprite's best frames above which it counts as present
_BEST_FRAMES = 5  # frames in which a sprite matches best: its colour and shape are judged in these


@dataclass(frozen=True)
class Inspection:
    """What the inspector finds in B clips with N sprites.

    world: the world of the clips, whose threshold says which patches are defective.
    patch_defects: [B, t, h, w], distance from the nearest clean clip.
    patch_flicker: [B, t, h, w], how much the difference from that clip changes from frame to frame.
    sprite_patches: [B, t, h, w] bool, the patches in which a sprite should be seen.
    visibility: [B, N, F] in [0, 1], how well the clip shows each sprite where the nearest clean clip has it.
    colour_right, shape_right: [B, N] bool, whether each sprite is present with the colour and shape of the caption.
    motion: [B], mean speed of the sprites in pixels per frame.
    nearest: [B, 3, F, H, W] in [-1, 1], the nearest clean clips, which all this is measured against.
    """

    world: World
    patch_defects: Tensor
    patch_flicker: Tensor
    sprite_patches: Tensor
    visibility: Tensor
    colour_right: Tensor
    shape_right: Tensor
    motion: Tensor
    nearest: Tensor

    @property
    def defective(self) -> Tensor:
        """Whether each patch is defective, [B, t, h, w] bool."""
        return self.patch_defects > self.world.defect_threshold


@torch.no_grad()
def inspect(video: Tensor, specs: Sequence[SceneSpec], grid: PatchGrid) -> Inspection:
    """The true defects of clips, by comparison with the clean clips nearest to them.

    Args:
        video: [B, 3, F, H, W] in [-1, 1], of the size of a world's clips.
        specs: what the caption of each clip says.

    Raises:
        ValueError: no world has clips of this size.
    """
    world = world_of(video.shape)
    frames = (video.transpose(1, 2).float() + 1) / 2
    background = fit_background(frames, specs, world)
    unlit = frames / background.light
    fit = fit_clean(unlit, background, specs, world)
    nearest = (fit.frames * background.light).clamp(0, 1)
    error = _blur(frames - nearest)
    change = torch.zeros_like(error)
    change[:, 1:] = error[:, 1:] - error[:, :-1]
    colour_right, shape_right = _recognise(unlit, background, fit, specs, world)
    return Inspection(
        world=world,
        patch_defects=_root_mean_square(error, grid),
        patch_flicker=_root_mean_square(change, grid),
        sprite_patches=pool_pixels(fit.coverage.amax(1), grid, GEOMETRY) > 0.05,
        visibility=fit.visibility,
        colour_right=colour_right,
        shape_right=shape_right,
        motion=_motion(fit),
        nearest=2 * nearest.transpose(1, 2) - 1,
    )


def patch_distance(frames: Tensor, clean: Tensor, grid: PatchGrid) -> Tensor:
    """Root mean squared colour difference of each patch: [B, t, h, w], in units of the full range.

    Both are blurred a little first, so that an edge a fraction of a pixel off or softened by an autoencoder
    counts for little.

    Args:
        frames, clean: [B, F, 3, H, W] in [0, 1].
    """
    return _root_mean_square(_blur(frames - clean), grid)


def _root_mean_square(error: Tensor, grid: PatchGrid) -> Tensor:
    """Root mean square of each patch over pixels and colours: [B, F, 3, H, W] -> [B, t, h, w]."""
    return pool_pixels(error.square().mean(2), grid, GEOMETRY).sqrt()


def _blur(frames: Tensor) -> Tensor:
    """[B, F, 3, H, W] smoothed with the binomial kernel 1 4 6 4 1."""
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = (taps[:, None] * taps).expand(3, 1, 5, 5)
    flat = F.pad(frames.flatten(0, 1), (2, 2, 2, 2), mode="replicate")
    return F.conv2d(flat, kernel, groups=3).unflatten(0, frames.shape[:2])


def _recognise(
    frames: Tensor, background: Background, fit: Fit, specs: Sequence[SceneSpec], world: World
) -> tuple[Tensor, Tensor]:
    """Whether each sprite is present and its colour (its shape) fits better than all others: two [B, N] bool."""
    sprites = [sprite for spec in specs for sprite in spec.sprites]
    best = fit.visibility.flatten(0, 1).topk(_BEST_FRAMES, dim=1)
    clips = torch.arange(len(sprites)) // len(specs[0].sprites)
    paths = torch.gather(fit.path.flatten(0, 1), 1, best.indices[..., None].expand(-1, -1, 2))
    crops, local = crop_windows(frames, paths, crop_size(world), clips, best.indices)
    behind, _ = crop_windows(background.picture.expand_as(frames), paths, crop_size(world), clips, best.indices)
    radius = fit.radius.flatten()

    def error(pictures: Tensor) -> Tensor:
        return (view_windows(pictures, behind, local, radius) - crops).square().clamp(max=0.2).sum((1, 2, 3, 4))

    shape = torch.tensor([SHAPES.index(sprite.shape) for sprite in sprites])
    texture = torch.tensor([TEXTURES.index(sprite.texture) for sprite in sprites])
    colour = torch.tensor([COLOURS.index(sprite.colour) for sprite in sprites])
    palette = render.palette()
    by_colour = [error(render.sprite_pictures(shape, texture, c.expand(len(sprites), 3))) for c in palette]
    by_shape = [
        error(render.sprite_pictures(torch.full_like(shape, k), texture, palette[colour])) for k in range(len(SHAPES))
    ]
    present = best.values.mean(1) > _PRESENT
    colour_right = present & (torch.stack(by_colour).argmin(0) == colour)
    shape_right = present & (torch.stack(by_shape).argmin(0) == shape)
    return colour_right.unflatten(0, fit.radius.shape), shape_right.unflatten(0, fit.radius.shape)


def _motion(fit: Fit) -> Tensor:
    """Mean speed of the sprites in the nearest clean clip, weighted by how well they match: [B] pixels per frame."""
    speed = (fit.path[:, :, 1:] - fit.path[:, :, :-1]).norm(dim=-1)
    weight = torch.minimum(fit.visibility[:, :, 1:], fit.visibility[:, :, :-1])
    return (speed * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-6)
