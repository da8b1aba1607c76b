"""What holds for every family: its model predicts, noises and samples as its plain pipeline does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from family_models import SEEDS, STEPS, open_tiny, pipeline_class, pixels, plain, unpacked
from halovid.models import FAMILIES, DiffusionModel
from halovid.records import Conditioning
from tiny_pipelines import TINY

pytest_plugins = ["family_fixtures"]


def test_every_family_is_tested() -> None:
    assert {pipeline_class(name) for name in TINY} == FAMILIES.keys()


def test_sampling_and_decoding_give_the_plain_pipelines_pixels(
    model: DiffusionModel, samples: Tensor, folder: Path
) -> None:
    torch.testing.assert_close(pixels(model.decode_video(samples)), plain(folder), rtol=1e-4, atol=1e-4)


def test_without_guidance_there_is_no_negative_prompt(folder: Path, conditioning: Conditioning) -> None:
    model = open_tiny(folder, guidance_scale=1.0)
    assert model.negative() is None
    found = pixels(model.decode_video(model.sample(conditioning, SEEDS)))
    torch.testing.assert_close(found, plain(folder, guidance_scale=1.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [{"guidance_scale": 1.0}, {}], ids=["plain", "guided"])
def test_predict_is_what_the_denoiser_gives_at_every_step_of_sampling(
    changes: dict[str, Any], folder: Path, conditioning: Conditioning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the scheduler gets is recorded: the network's output as the pipeline reads it, guided or as it is.

    What it gives at last is what is sampled.

    Levels are those of the scheduler's steps, since some networks are told timesteps that are counted in another way.
    """
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    results: list[Any] = []  # what the scheduler made of each of them
    model = open_tiny(folder, **changes)
    scheduler = model._pipe.scheduler
    scheduler_step, scaled = scheduler.step, getattr(scheduler, "scale_model_input", lambda sample, timestep: sample)

    def note_step(output: Tensor, timestep: Tensor, sample: Tensor, *args: Any, **named: Any) -> Any:
        inverted = scheduler.config.get("invert_sigmas")  # its time runs from noise to clip
        towards_clip = inverted or "per_token_timesteps" in named
        told = scheduler.config.num_train_timesteps - timestep if inverted else timestep
        steps.append((scaled(sample, timestep), told, -output if towards_clip else output))
        results.append(scheduler_step(output, timestep, sample, *args, **named))
        return results[-1]

    monkeypatch.setattr(scheduler, "step", note_step)
    sampled = model.sample(conditioning, SEEDS)
    shape = sampled.shape
    torch.testing.assert_close(unpacked(model, results[-1][0], shape), sampled, rtol=1e-4, atol=1e-4)
    assert len(steps) >= STEPS, "a scheduler like PNDM calls the network once more than there are steps"
    for noisy, timestep, output in steps:
        level = model.noise.level(timestep.expand(len(SEEDS)))
        inside, expected = (unpacked(model, value, shape) for value in (noisy, output))
        gap = (model.predict_guided(inside, level, conditioning) - expected).abs().max()
        assert gap < 1e-4 * max(1.0, expected.abs().max())


def test_each_row_has_a_noise_level_of_its_own(
    model: DiffusionModel, conditioning: Conditioning, samples: Tensor
) -> None:
    level = torch.tensor([0.2, 0.9])
    both = model.predict(samples, level, conditioning)
    for row in range(2):
        alone = model.predict(samples[row : row + 1], level[row : row + 1], conditioning.rows([row]))
        torch.testing.assert_close(both[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_in_half_precision_it_predicts_nearly_the_same(
    model: DiffusionModel, folder: Path, conditioning: Conditioning, samples: Tensor
) -> None:
    level, half = torch.tensor([0.2, 0.9]), open_tiny(folder, ("denoiser",), torch.bfloat16)
    expected = model.predict(samples, level, conditioning)
    gap = half.predict(samples, level, conditioning).float() - expected
    assert gap.std() < 0.05 * expected.std()


def test_noise_and_target_are_the_schedulers(model: DiffusionModel, samples: Tensor) -> None:
    scheduler, noise = model._pipe.scheduler, torch.randn_like(samples)
    shift = {"mu": 0.7} if scheduler.config.get("use_dynamic_shifting") else {}  # any, as clips of some size need it
    scheduler.set_timesteps(STEPS, **shift)
    for index, timestep in enumerate(scheduler.timesteps):
        if model.noise.kind == "flow":  # its timesteps may be rounded; its sigmas are not
            level = scheduler.sigmas[index].expand(len(samples)).float()
            target = noise - samples
        else:
            level = model.noise.level(timestep.expand(len(samples)))
            velocity = getattr(scheduler, "get_velocity", None)
            target = {
                "v_prediction": velocity and velocity(samples, noise, timestep.expand(len(samples))),
                "epsilon": noise,
                "sample": samples,
            }[model.noise.kind]
        if hasattr(scheduler, "add_noise"):
            noisy = scheduler.add_noise(samples, noise, timestep.expand(len(samples)))
        else:
            noisy = scheduler.scale_noise(samples, timestep.expand(len(samples)), noise)
        if hasattr(scheduler, "scale_model_input"):  # what the network gets; a copy, since it counts its calls
            noisy = copy.deepcopy(scheduler).scale_model_input(noisy, timestep)
        torch.testing.assert_close(model.noise.noisy(samples, noise, level), noisy, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.noise.target(samples, noise, level), target, rtol=1e-4, atol=1e-4)


def test_a_clip_is_a_function_of_its_own_seed_whatever_it_is_batched_with(
    model: DiffusionModel, conditioning: Conditioning, samples: Tensor
) -> None:
    for row, seed in enumerate(SEEDS):
        alone = model.sample(conditioning.rows([row]), [seed])
        torch.testing.assert_close(alone, samples[row : row + 1], rtol=1e-4, atol=1e-4)
        decoded = model.decode_video(samples)[row : row + 1]
        torch.testing.assert_close(model.decode_video(alone), decoded, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(model.sample(conditioning, [3, 12])[1], samples[1], atol=1e-3)
