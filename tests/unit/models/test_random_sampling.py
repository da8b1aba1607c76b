"""Sampling with random steps: what is random, what is kept, and the probability of it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from halovid.maths.noise import NoiseProcess
from halovid.models.random_sampling import random_step_error, sample_with_random_steps, sampling_levels
from halovid.records import Conditioning

B, S = 2, 2
SHAPE = (3, 4, 5, 6)
TEXTS = Conditioning({"prompt_embeds": torch.ones(B, 1, 1)})


class Scaled:
    """A flow model whose output is the noisy clip, times a number."""

    noise = NoiseProcess("flow")

    def __init__(self, factor: float = 0.7) -> None:
        self.factor = factor

    def predict_guided(self, noisy: Tensor, level: Tensor, conditioning: Conditioning) -> Tensor:
        return self.factor * noisy


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sample(random: list[int], fresh: float = 0.7, model: Any = None) -> Any:
    start, new_noise = draw(B, *SHAPE, seed=1), draw(len(random), B, *SHAPE, seed=2)
    levels = sampling_levels(5, 1.0)
    return sample_with_random_steps(model or Scaled(), TEXTS, start, new_noise, levels, random, fresh)


def test_levels_go_from_noise_to_the_clip_and_a_shift_holds_them_near_noise() -> None:
    torch.testing.assert_close(sampling_levels(4, 1.0), torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))
    shifted = sampling_levels(4, 3.0)
    assert shifted[0] == 1 and shifted[-1] == 0
    assert (shifted[1:-1] > sampling_levels(4, 1.0)[1:-1]).all() and (shifted.diff() < 0).all()


def test_the_steps_between_are_those_of_the_deterministic_sampler() -> None:
    model, (latents, steps) = Scaled(), sample([1, 3])
    levels = sampling_levels(5, 1.0)

    def go(noisy: Tensor, first: int, last: int) -> Tensor:
        for level, next_level in itertools.pairwise(levels[first : last + 1]):
            output = model.predict_guided(noisy, level.expand(B), TEXTS)
            noisy = model.noise.step(output, noisy, level.expand(B), next_level.expand(B))
        return noisy

    assert (
        steps.before.shape == (B, S, *SHAPE) and steps.level.tolist() == [[pytest.approx(0.8), pytest.approx(0.4)]] * B
    )
    torch.testing.assert_close(steps.before[:, 0], go(draw(B, *SHAPE, seed=1), 0, 1))
    torch.testing.assert_close(steps.before[:, 1], go(steps.after[:, 0], 2, 3))
    torch.testing.assert_close(latents, go(steps.after[:, 1], 4, 5))


def test_clips_that_start_alike_part_at_the_first_random_step() -> None:
    start = draw(1, *SHAPE, seed=1).expand(B, -1, -1, -1, -1)
    new_noise = draw(1, B, *SHAPE, seed=2)
    latents, steps = sample_with_random_steps(
        Scaled(),
        TEXTS,
        start,
        new_noise,
        sampling_levels(5, 1.0),
        [2],
        0.7,  # type: ignore[arg-type]
    )
    assert torch.equal(steps.before[0], steps.before[1])
    assert not torch.equal(latents[0], latents[1])


def test_errors_are_minus_the_log_probability_density_of_the_step_that_was_taken() -> None:
    model: Any = Scaled()
    _, steps = sample([1])
    error, output = random_step_error(model, steps, TEXTS, 0.7)
    torch.testing.assert_close(output, model.predict_guided(steps.before[:, 0], steps.level[:, 0], TEXTS))
    expected = draw(1, B, *SHAPE, seed=2)[0].square().mean(1) / 2  # of normal noise, without the constant
    torch.testing.assert_close(error, expected, rtol=1e-4, atol=1e-5)

    other: Any = Scaled(0.4)
    mean, deviation = other.noise.random_step(
        0.4 * steps.before[:, 0], steps.before[:, 0], steps.level[:, 0], steps.next_level[:, 0], 0.7
    )
    density = torch.distributions.Normal(mean, deviation.view(-1, 1, 1, 1, 1))
    own = torch.distributions.Normal(0.0, deviation.view(-1, 1, 1, 1, 1)).log_prob(torch.zeros(1))
    torch.testing.assert_close(
        random_step_error(other, steps, TEXTS, 0.7)[0], (own - density.log_prob(steps.after[:, 0])).mean(1)
    )
