"""The training of the autoencoders: by phases, from nothing or from another's weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from halovid.world import packaged_pipeline
from halovid.world_training import vae
from halovid.world_training.plans import PLANS, Phase, Plan
from tiny_world_training import assert_resumes, kill_at, render_work

SHORT = (Phase(2, 1, 2, rate=1e-3, final_rate=1e-3), Phase(4, 5, 1, rate=1e-3, final_rate=1e-4, crop=32))
each_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


@each_plan
def test_the_vae_continues_where_it_was_killed(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vae, "CHECKPOINT_EVERY", 2)
    short, work = replace(plan, vae_phases=SHORT), render_work(tmp_path, monkeypatch, plan)
    assert_resumes(
        lambda folder: vae.train_vae(short, work / "clips", folder),
        work,
        "vae.safetensors",
        lambda: kill_at(4, vae, "vae_loss", monkeypatch),
    )


def test_every_phase_ends_at_its_own_rate() -> None:
    assert vae.learning_rate(SHORT, 0) == pytest.approx(1e-3 / 100)  # warm-up
    assert vae.learning_rate(SHORT, 3) == pytest.approx(4e-2 * (1e-4 + 9e-4 * 0.5))


@each_plan
def test_a_box_has_the_size_of_its_phase_and_may_lie_anywhere_in_a_clip(plan: Plan) -> None:
    generator, world = torch.Generator().manual_seed(0), plan.world
    for phase in plan.vae_phases:
        boxes = [vae.random_box(world, phase, generator) for _ in range(400)]
        crop = phase.crop or world.frame_size
        for axis, (whole, part) in enumerate(((world.num_frames, phase.num_frames), *[(world.frame_size, crop)] * 2)):
            slices = [box[axis] for box in boxes]
            assert {one.stop - one.start for one in slices} == {part}
            starts = {one.start for one in slices}
            assert min(starts) == 0 and max(starts) == whole - part  # both ends; all of the clip if nothing is cut off
    cut = vae.random_box(world, Phase(1, 1, 1, 1.0, 1.0, crop=40), generator)
    assert torch.zeros(world.clip_shape)[cut].shape == (1, 40, 40)


def test_a_vae_can_start_from_the_weights_of_a_pipeline() -> None:
    packaged = AutoencoderKLWan.from_pretrained(packaged_pipeline(), subfolder="vae").state_dict()
    started, untrained = vae.build_vae(packaged_pipeline()).state_dict(), vae.build_vae().state_dict()
    assert started.keys() == packaged.keys() == untrained.keys()
    assert all(torch.equal(value, packaged[key]) for key, value in started.items())
    assert all(value.dtype == torch.float32 for value in started.values())
    assert any(not torch.equal(value, packaged[key]) for key, value in untrained.items())


def test_the_latents_of_an_untrained_vae_are_almost_free_of_noise() -> None:
    posterior = vae.build_vae().encode(torch.zeros(1, 3, 1, 64, 64)).latent_dist
    assert posterior.std.max() < 0.1
