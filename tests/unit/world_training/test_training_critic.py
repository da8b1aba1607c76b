"""The training of the critics: on rendered scenes whose corruptions are known cell by cell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from halovid.world.corruptions import KINDS, Event
from halovid.world.critic import Critic
from halovid.world.render import render_scene
from halovid.world.scenes import sample_scene
from halovid.world_training import critic
from halovid.world_training.plans import PLANS, Plan

each_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


class Lossless:
    """An autoencoder that keeps all, and counts the clips that it is shown."""

    def __init__(self) -> None:
        self.encoded = 0

    def encode_video(self, video: Tensor) -> Tensor:
        self.encoded += len(video)
        return video

    def decode_video(self, latents: Tensor) -> Tensor:
        return latents


@each_plan
def test_an_example_has_a_label_of_every_latent_cell(plan: Plan) -> None:
    clip, label = critic.render_example(plan, critic.FIRST_SEED)
    assert clip.shape == (3, *plan.world.clip_shape)
    frames, size, _ = plan.world.clip_shape
    assert label.shape == critic.cells_of(plan.world).shape == ((frames + 3) // 4, size // 8, size // 8)
    values = {int(value) for seed in range(2) for value in critic.render_example(plan, seed)[1].unique()}
    assert values <= {-100, *range(len(KINDS) + 1)} and 0 in values and max(values) > 0


@each_plan
def test_a_cell_has_the_kind_of_the_event_that_is_seen_in_it(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [Event("noise", 0, 5, 9), Event("bleed", 3, 9, 13)]  # latent frames 2 and 3
    monkeypatch.setattr(critic, "sample_events", lambda *_: events)
    _, label = critic.render_example(plan, 3)
    assert set(label[2].unique().tolist()) >= {0, 1 + KINDS.index("noise")}
    assert set(label[3].unique().tolist()) >= {0, 1 + KINDS.index("bleed")}
    assert not label[[0, 1, *range(4, len(label))]].any()
    home = [int(value) // 8 for value in plan.world.homes[0]]
    assert (label[2, : 2 * home[1], : 2 * home[0]] > 0).any(), "the first sprite is at the top left"


@each_plan
def test_a_scene_without_events_is_clean_in_every_cell(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critic, "sample_events", lambda *_: [])
    clip, label = critic.render_example(plan, 3)
    assert not label.any()
    assert torch.equal(clip, render_scene(sample_scene(3, "train", plan.world)))


@each_plan
def test_the_critic_of_a_world_is_trained_and_stored_in_half_precision(plan: Plan, tmp_path: Path) -> None:
    schedule, autoencoder = critic.Schedule(num_scenes=10, num_steps=2, batch_size=2), Lossless()
    generator: Any = autoencoder
    seldom = replace(plan, corruption_rate=0.2)
    figures = critic.train_critic(seldom, generator, tmp_path / "critic.safetensors", schedule)
    weights = load_file(tmp_path / "critic.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert weights.keys() == Critic().state_dict().keys()
    assert autoencoder.encoded == 5, "every other clip goes through the autoencoder"
    assert figures.keys() == {
        *("clean called clean", "defects called defective", "kind right"),
        *(f"kind right: {kind}" for kind in KINDS),
    }
