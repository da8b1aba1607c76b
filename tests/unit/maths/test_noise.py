"""The flow path, its velocity, and the distribution of noise levels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from torch import Tensor

from halovid.maths.noise import SigmaSampling, flow_interpolate, flow_velocity, sample_sigma, timestep_weight

SHAPE = (2, 3, 5, 7, 11)
quick = settings(max_examples=40, deadline=None, derandomize=True)
options = st.builds(
    SigmaSampling,
    scheme=st.sampled_from(["uniform", "logit_normal"]),
    mean=st.floats(-2, 2),
    std=st.floats(0.1, 3),
    shift=st.floats(0.2, 8),
    lowest=st.floats(0, 0.45),
    highest=st.floats(0.5, 1),
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents_and_noise() -> Tensor:
    return torch.randn(2, *SHAPE, generator=generator(), dtype=torch.float64)


@quick
@given(options, st.integers(0, 2**32))
def test_levels_lie_in_their_range_and_depend_on_the_seed_alone(sampling: SigmaSampling, seed: int) -> None:
    sigma = sample_sigma(37, sampling, generator(seed))
    assert sigma.shape == (37,)
    assert (sigma >= sampling.lowest - 1e-6).all() and (sigma <= sampling.highest + 1e-6).all()
    assert torch.equal(sigma, sample_sigma(37, sampling, generator(seed)))
    assert not torch.equal(sigma, sample_sigma(37, sampling, generator(seed + 1)))


@pytest.mark.parametrize(("shift", "lowest", "highest"), [(1.0, 0.0, 1.0), (5.0, 0.1, 0.7)])
def test_both_schemes_have_their_distribution(shift: float, lowest: float, highest: float) -> None:
    def undo(sigma: Tensor) -> np.ndarray:
        share = (sigma.double().numpy() - lowest) / (highest - lowest)
        return share / (shift - (shift - 1) * share)

    uniform = SigmaSampling(scheme="uniform", shift=shift, lowest=lowest, highest=highest)
    drawn = undo(sample_sigma(20_000, uniform, generator()))
    assert stats.kstest(drawn, "uniform").statistic < 0.012  # the 0.5% point of 20 000 values

    normal = SigmaSampling(scheme="logit_normal", mean=0.4, std=1.3, shift=shift, lowest=lowest, highest=highest)
    drawn = undo(sample_sigma(20_000, normal, generator()))
    logits = np.log(drawn / (1 - drawn))
    assert stats.kstest(logits, stats.norm(0.4, 1.3).cdf).statistic < 0.012


def test_a_shift_above_one_moves_every_level_towards_noise() -> None:
    plain = sample_sigma(101, SigmaSampling(), generator())
    shifted = sample_sigma(101, SigmaSampling(shift=3), generator())
    assert (shifted > plain).all()
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain))


def test_the_path_leads_from_latents_to_noise() -> None:
    latents, noise = latents_and_noise()
    torch.testing.assert_close(flow_interpolate(latents, noise, torch.zeros(2)), latents)
    torch.testing.assert_close(flow_interpolate(latents, noise, torch.ones(2)), noise)


def test_each_clip_has_its_own_level() -> None:
    latents, noise = latents_and_noise()
    noisy = flow_interpolate(latents, noise, torch.tensor([0.25, 0.5]))
    torch.testing.assert_close(noisy[0], 0.75 * latents[0] + 0.25 * noise[0])
    torch.testing.assert_close(noisy[1], 0.5 * latents[1] + 0.5 * noise[1])


def test_the_velocity_is_the_derivative_of_the_path() -> None:
    latents, noise = latents_and_noise()
    sigma = torch.tensor([0.2, 0.7], dtype=torch.float64)
    noisy, velocity = flow_interpolate(latents, noise, sigma), flow_velocity(latents, noise)
    torch.testing.assert_close(flow_interpolate(latents, noise, sigma + 0.1), noisy + 0.1 * velocity)
    level = sigma[:, None, None, None, None]
    torch.testing.assert_close(noisy - level * velocity, latents)
    torch.testing.assert_close(noisy + (1 - level) * velocity, noise)


def test_the_path_keeps_the_number_format_of_the_latents() -> None:
    latents, noise = latents_and_noise().bfloat16()
    assert flow_interpolate(latents, noise, torch.rand(2)).dtype == torch.bfloat16


def test_timestep_weights() -> None:
    sigma = torch.tensor([0.0, 0.25, 1.0])
    assert timestep_weight(sigma, "constant").tolist() == [1, 1, 1]
    assert timestep_weight(sigma, "flow_dpo").tolist() == [1, 0.5625, 0]


@pytest.mark.parametrize(
    "settings",
    [
        {"lowest": 0.5, "highest": 0.5},
        {"lowest": 0.9, "highest": 0.1},
        {"lowest": -0.1},
        {"highest": 1.1},
        {"std": 0.0},
        {"shift": 0.0},
        {"scheme": "cosine"},
        {"sheme": "uniform"},
    ],
)
def test_impossible_samplings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        SigmaSampling(**settings)


def test_the_default_is_the_logit_normal_of_sd3() -> None:
    sigma = sample_sigma(20_000, SigmaSampling(), generator())
    assert sigma.median().item() == pytest.approx(0.5, abs=0.01)
    inner = ((sigma > 1 / (1 + math.e)) & (sigma < 1 / (1 + math.exp(-1)))).double().mean().item()
    assert inner == pytest.approx(stats.norm.cdf(1) - stats.norm.cdf(-1), abs=0.01)
