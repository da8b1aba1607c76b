"""Twins of clips: a clip is noised and made anew by the base model, which keeps the layout and adds its own defects.

Source: LocalDPO (arXiv 2601.04068) for random regions, inside which the clip as it was is preferred without a judge.
Departure: the whole clip unless `most_regions` is set.
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
    """Which latent cells are made anew, [T, h, w] of zeros and ones: 1 to `most_regions` random boxes, or all."""
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
def restore(
    model: DiffusionModel,
    latents: Tensor,
    mask: Tensor,
    conditioning: Conditioning,
    noise: Tensor,
    config: RestoreConfig,
) -> Tensor:
    """Latents whose cells under the mask the model has made anew, from noise level `sigma` on, [B, C, T, h, w].

    At each level the rest of the clip is the original at that level, so that the new region fits into it. The steps are
    those of the model's noise process, with the guidance that candidates are sampled with.

    Args:
        latents, noise: [B, C, T, h, w].  mask: [B, T, h, w] of zeros and ones.
    """
    inside = mask[:, None].to(latents)
    levels = torch.linspace(config.sigma, 0, config.steps + 1, device=latents.device)[:, None].expand(-1, len(latents))
    sample = model.noise.noisy(latents, noise, levels[0])
    for level, following in itertools.pairwise(levels):
        output = model.predict_guided(sample, level, conditioning)
        sample = model.noise.step(output, sample, level, following)
        outside = model.noise.noisy(latents, noise, following)
        sample = inside * sample + (1 - inside) * outside
    return sample
