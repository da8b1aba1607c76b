"""Regions of a clip made anew by the base model: where, and with what."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from halovid.config.run import RestoreConfig
from halovid.maths.noise import flow_interpolate
from halovid.models.restoring import Guidance, random_regions, restore

B, C, T, H, W = 2, 3, 5, 7, 11


class FlowTo:
    """A generator whose velocity leads straight to one clip, times what the prompt says."""

    def __init__(self, goal: Tensor) -> None:
        self.goal = goal

    def add_noise(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return flow_interpolate(latents, noise, sigma)

    def predict(self, noisy: Tensor, sigma: Tensor, prompt_embeds: Tensor) -> Tensor:
        return (noisy - self.goal * prompt_embeds[..., None, None]) / sigma.reshape(-1, 1, 1, 1, 1)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_inside_the_region_is_what_the_model_makes_and_outside_the_clip_itself() -> None:
    clip, goal, noise = (random(B, C, T, H, W, seed=seed) for seed in range(3))
    mask = (random(B, T, H, W, seed=3) > 0).double()
    model: Any = FlowTo(goal)
    found = restore(model, clip, mask, torch.ones(B, 1, 1), noise, RestoreConfig(sigma=0.7, steps=5))
    inside = mask[:, None].bool().expand(-1, C, -1, -1, -1)
    torch.testing.assert_close(found[inside], goal[inside])
    torch.testing.assert_close(found[~inside], clip[~inside])


def test_guidance_leads_away_from_the_negative_prompt() -> None:
    clip, goal, noise = (random(B, C, T, H, W, seed=seed) for seed in range(3))
    model: Any = FlowTo(goal)
    settings = (torch.ones(B, T, H, W), torch.full((B, 1, 1), 2.0), noise, RestoreConfig(steps=5))
    found = restore(model, clip, *settings, Guidance(3.0, torch.full((1, 1, 1), 0.5)))
    torch.testing.assert_close(found, (0.5 + 3 * (2 - 0.5)) * goal)
    torch.testing.assert_close(restore(model, clip, *settings), 2 * goal)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(1, 3), st.floats(0.1, 0.5), st.floats(0.5, 1.0))
def test_regions_are_boxes_within_the_bounds(seed: int, most: int, smallest: float, largest: float) -> None:
    options = RestoreConfig(most_regions=most, smallest=smallest, largest=largest)
    mask = random_regions((T, H, W), options, np.random.default_rng(seed))
    assert mask.shape == (T, H, W) and set(mask.unique().tolist()) <= {0.0, 1.0}
    sides = [(max(1, round(size * smallest)), max(1, round(size * largest))) for size in (T, H, W)]
    least, greatest = (np.prod([side[k] for side in sides]) for k in (0, 1))
    assert least <= mask.sum() <= most * greatest
    if most == 1:  # a single box: the mask is the product of its shadows
        shadows = mask.amax((1, 2))[:, None, None] * mask.amax((0, 2))[None, :, None] * mask.amax((0, 1))
        assert torch.equal(mask, shadows)
    assert torch.equal(mask, random_regions((T, H, W), options, np.random.default_rng(seed)))
