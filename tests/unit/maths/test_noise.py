"""Noise processes: paths from clips to noise and back; the distribution of noise levels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from torch import Tensor

from halovid.maths.noise import NoiseProcess, SigmaSampling, sample_sigma, timestep_weight

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


ALPHAS = torch.linspace(0.9995, 0.005, 1000, dtype=torch.float64)
PROCESSES = {
    "flow": NoiseProcess("flow"),
    "epsilon": NoiseProcess("epsilon", ALPHAS),
    "v_prediction": NoiseProcess("v_prediction", ALPHAS),
    "v_prediction, zero SNR": NoiseProcess("v_prediction", ALPHAS - ALPHAS[-1]),
    "sample": NoiseProcess("sample", ALPHAS),
    "sample, zero SNR": NoiseProcess("sample", ALPHAS - ALPHAS[-1]),
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
levels = st.floats(0.002, 1)


def pair_of_levels(one: float, other: float) -> Tensor:
    return torch.tensor([one, other], dtype=torch.float64)


@every_process
def test_level_0_is_the_clip_and_level_1_the_most_noise_there_is(process: NoiseProcess) -> None:
    latents, noise = latents_and_noise()
    torch.testing.assert_close(process.noisy(latents, noise, torch.zeros(2)), latents)
    least = 0.0 if process.alphas is None else float(process.alphas[-1])
    expected = least**0.5 * latents + (1 - least) ** 0.5 * noise
    torch.testing.assert_close(process.noisy(latents, noise, torch.ones(2)), expected)


@every_process
@quick
@given(levels, levels)
def test_a_perfect_network_tells_latents_and_noise_apart(process: NoiseProcess, one: float, other: float) -> None:
    latents, noise = latents_and_noise()
    level = pair_of_levels(one, other)
    noisy, target = process.noisy(latents, noise, level), process.target(latents, noise, level)
    for found, expected in zip(process.split(target, noisy, level), (latents, noise), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(process.denoised(target, noisy, level), latents, rtol=1e-6, atol=1e-6)


@every_process
@quick
@given(levels, levels, st.integers(1, 7))
def test_a_perfect_network_restores_the_clip_in_any_number_of_steps(
    process: NoiseProcess, one: float, other: float, steps: int
) -> None:
    latents, noise = latents_and_noise()
    schedule = torch.stack([torch.linspace(level, 0, steps + 1, dtype=torch.float64) for level in (one, other)], 1)
    sample = process.noisy(latents, noise, schedule[0])
    for level, following in itertools.pairwise(schedule):
        sample = process.step(process.target(latents, noise, level), sample, level, following)
        torch.testing.assert_close(sample, process.noisy(latents, noise, following), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sample, latents, rtol=1e-6, atol=1e-6)


@every_process
def test_each_clip_has_its_own_level(process: NoiseProcess) -> None:
    latents, noise = latents_and_noise()
    both = process.noisy(latents, noise, torch.tensor([0.25, 0.5]))
    for row, level in enumerate((0.25, 0.5)):
        alone = process.noisy(latents[row : row + 1], noise[row : row + 1], torch.tensor([level]))
        torch.testing.assert_close(both[row : row + 1], alone)


@every_process
def test_the_noise_gain_is_the_derivative_of_the_predicted_noise(process: NoiseProcess) -> None:
    noisy, output = latents_and_noise()
    level = pair_of_levels(0.3, 0.8)
    moved = process.split(output + 1, noisy, level)[1] - process.split(output, noisy, level)[1]
    gain = process.noise_gain(level)[:, None, None, None, None]
    torch.testing.assert_close(moved.abs(), gain.expand_as(moved), rtol=1e-6, atol=1e-9)
    assert torch.equal(timestep_weight(process, level, "constant"), torch.ones_like(level))
    torch.testing.assert_close(timestep_weight(process, level, "flow_dpo"), process.noise_gain(level) ** 2)


@every_process
@quick
@given(st.integers(0, 999))
def test_timesteps_are_levels_counted_in_steps(process: NoiseProcess, step: int) -> None:
    timestep = torch.tensor([step])
    assert process.timestep(process.level(timestep)).item() == pytest.approx(step, abs=1e-3)


def test_the_velocity_of_a_flow_is_the_derivative_of_its_path() -> None:
    process, (latents, noise) = NoiseProcess("flow"), latents_and_noise()
    level = pair_of_levels(0.2, 0.7)
    noisy, velocity = process.noisy(latents, noise, level), process.target(latents, noise, level)
    torch.testing.assert_close(process.noisy(latents, noise, level + 0.1), noisy + 0.1 * velocity)
    assert timestep_weight(process, torch.tensor([0.0, 0.25, 1.0]), "flow_dpo").tolist() == [1, 0.5625, 0]


@every_process
def test_the_path_keeps_the_number_format_of_the_latents(process: NoiseProcess) -> None:
    latents, noise = latents_and_noise().bfloat16()
    assert process.noisy(latents, noise, torch.rand(2)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("kind", "alphas", "words"),
    [
        ("flow", ALPHAS, "has no alphas"),
        ("epsilon", None, "needs alphas"),
        ("epsilon", ALPHAS[:7], "7 alphas do not make a path of 1000"),
        ("epsilon", ALPHAS - ALPHAS[-1], "can't start from noise alone"),
    ],
)
def test_impossible_paths_are_refused(kind: str, alphas: Tensor | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NoiseProcess(kind, alphas)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("kind", ["flow", "epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("fresh", [0.0, 0.6, 1.0])
def test_a_random_step_keeps_the_clip_and_the_amount_of_noise(kind: str, fresh: float) -> None:
    alphas = None if kind == "flow" else torch.linspace(0.9995, 0.005, 1000, dtype=torch.float64)
    process = NoiseProcess(kind, alphas)  # type: ignore[arg-type]
    latents, noise = latents_and_noise()
    level, next_level = torch.tensor([0.8, 0.5]), torch.tensor([0.6, 0.2])
    noisy = process.noisy(latents, noise, level)
    output = process.target(latents, noise, level)
    mean, deviation = process.random_step(output, noisy, level, next_level, fresh)
    share = process.noisy(torch.zeros_like(noise), torch.ones_like(noise), next_level)
    torch.testing.assert_close(mean, process.noisy(latents, (1 - fresh**2) ** 0.5 * noise, next_level))
    torch.testing.assert_close(deviation, share.flatten(1)[:, 0] * fresh)
    if fresh == 0:
        torch.testing.assert_close(mean, process.step(output, noisy, level, next_level))
