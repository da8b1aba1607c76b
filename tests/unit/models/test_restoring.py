"""Regions of a clip made anew by the base model: where, and with what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from halovid.config.pairs import RestoreConfig
from halovid.maths.noise import NoiseProcess
from halovid.models.restoring import random_regions, remake
from halovid.records import Conditioning

B, C, T, H, W = 2, 3, 5, 7, 11
ALPHAS = torch.linspace(0.9995, 0.005, 1000, dtype=torch.float64)


class LeadsTo:
    """A model whose output leads straight to one clip, times what the prompt says."""

    def __init__(self, goal: Tensor, kind: str) -> None:
        self.goal = goal
        self.noise = NoiseProcess(kind, None if kind == "flow" else ALPHAS)  # type: ignore[arg-type]

    def predict_guided(self, noisy: Tensor, level: Tensor, conditioning: Conditioning) -> Tensor:
        goal = self.goal * conditioning.tensors["prompt_embeds"][..., None, None]
        start = self.noise.noisy(goal, torch.zeros_like(goal), level)
        most = self.noise.noisy(torch.zeros_like(goal), torch.ones_like(goal), level)
        return self.noise.target(goal, (noisy - start) / most, level)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["flow", "epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0])
def test_inside_the_region_is_what_the_model_makes_and_outside_the_clip_itself(kind: str, sigma: float) -> None:
    clip, goal, noise = (random(B, C, T, H, W, seed=seed) for seed in range(3))
    mask = (random(B, T, H, W, seed=3) > 0).double()
    model: Any = LeadsTo(goal, kind)
    texts = Conditioning({"prompt_embeds": torch.tensor([1.0, 2.0])[:, None, None]})
    remade = remake(model, clip, mask, texts, noise, sigma=sigma, steps=5)
    inside = mask[:, None].bool().expand(-1, C, -1, -1, -1)
    goal = goal * torch.tensor([1.0, 2.0])[:, None, None, None, None]
    torch.testing.assert_close(remade[inside], goal[inside])
    torch.testing.assert_close(remade[~inside], clip[~inside])


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
