"""Twins of clips: a clip is noised and made anew by the base model, which keeps the layout and adds its own defects.

Source: LocalDPO (arXiv 2601.04068) for random regions, inside which the clip as it was is preferred without a judge.
Departure: the whole clip unless `most_regions` is set.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from halovid.config.run import RestoreConfig
from halovid.models import Generator


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


class Guidance(NamedTuple):
    """Classifier-free guidance: its scale, and the condition that it leads away from, [1, L, D]."""

    scale: float
    negative_embeds: Tensor


@torch.no_grad()
def restore(
    generator: Generator,
    latents: Tensor,
    mask: Tensor,
    prompt_embeds: Tensor,
    noise: Tensor,
    config: RestoreConfig,
    guidance: Guidance | None = None,
) -> Tensor:
    """Latents whose cells under the mask the generator has made anew, from noise level `sigma` on, [B, C, T, h, w].

    At each level the rest of the clip is the original at that level, so that the new region fits into it. Euler steps
    of the flow, with the guidance that candidates are sampled with.

    Args:
        latents, noise: [B, C, T, h, w].  mask: [B, T, h, w] of zeros and ones.
    """
    inside = mask[:, None].to(latents)
    levels = torch.linspace(config.sigma, 0, config.steps + 1)
    sample = generator.add_noise(latents, noise, levels[:1].expand(len(latents)))
    for level, following in itertools.pairwise(levels):
        velocity = _velocity(generator, sample, level.expand(len(latents)).to(latents.device), prompt_embeds, guidance)
        sample = sample + (following - level) * velocity
        outside = generator.add_noise(latents, noise, following.expand(len(latents)))
        sample = inside * sample + (1 - inside) * outside
    return sample


def _velocity(
    generator: Generator, sample: Tensor, sigma: Tensor, prompt_embeds: Tensor, guidance: Guidance | None
) -> Tensor:
    """The predicted velocity, guided."""
    velocity = generator.predict(sample, sigma, prompt_embeds)
    if guidance is None:
        return velocity
    away = generator.predict(sample, sigma, guidance.negative_embeds.expand(len(sample), -1, -1))
    return away + guidance.scale * (velocity - away)
