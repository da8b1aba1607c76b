"""Twins of clips: noise is added to a clip and removed by the base model: the layout stays, its own defects come in.

Source: LocalDPO (arXiv 2601.04068) for random regions, inside which the original is preferred without a judge.
Departure: the whole clip is made anew unless `most_regions` is set.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from halovid.config.pairs import RestoreConfig
from halovid.models import DiffusionModel
from halovid.records import Conditioning


def random_regions(shape: tuple[int, int, int], config: RestoreConfig, rng: np.random.Generator) -> Tensor:
    """The latent cells that are made anew, [T, h, w]: 1 inside 1 to `most_regions` random boxes, or everywhere."""
    if config.most_regions is None:
        return torch.ones(shape)
    mask = torch.zeros(shape)
    for _ in range(int(rng.integers(1, config.most_regions + 1))):
        spans = []
        for size in shape:
            length = max(1, round(size * rng.uniform(config.smallest, config.largest)))
            first = int(rng.integers(0, size - length + 1))
            spans.append(slice(first, first + length))
        mask[tuple(spans)] = 1
    return mask


@torch.no_grad()
def remake(
    model: DiffusionModel,
    latents: Tensor,
    mask: Tensor,
    conditioning: Conditioning,
    noise: Tensor,
    *,
    sigma: float,
    steps: int,
) -> Tensor:
    """The latents with the cells under the mask made anew by the model from noise level `sigma` on, [B, C, T, h, w].

    After each step the cells outside the mask are set to the original at that noise level, so that the new region fits
    into it. Steps are those of the model's noise process, with the guidance that candidates are sampled with.

    Args:
        latents, noise: [B, C, T, h, w].
        mask: [B, T, h, w], 1 for cells to make anew, else 0.
        sigma: the noise level that the cells start from, in 0..1.
        steps: of equal size, from there to the clip.
    """
    mask = mask[:, None].to(latents)
    levels = torch.linspace(sigma, 0, steps + 1, device=latents.device)[:, None].expand(-1, len(latents))
    sample = model.noise.noisy(latents, noise, levels[0])
    for level, next_level in itertools.pairwise(levels):
        output = model.predict_guided(sample, level, conditioning)
        sample = model.noise.step(output, sample, level, next_level)
        original = model.noise.noisy(latents, noise, next_level)
        sample = mask * sample + (1 - mask) * original
    return sample
