"""The figures that a generator is judged by: of clips whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from halovid.maths.seeds import clip_seed
from halovid.world.captions import parse_caption
from halovid.world.corruptions import KINDS
from halovid.world.critic import Critic
from halovid.world.render import render_scene
from halovid.world.scenes import place_scene
from halovid.world.worlds import World
from halovid.world_training import figures
from halovid.world_training.plans import PLANS, Plan

each_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
NUM_CLIPS = 3


class Perfect:
    """A generator whose clips are clean renderings of their prompts, and whose autoencoder loses next to nothing."""

    def __init__(self, world: World, error: float = 0.0) -> None:
        self._world, self._error = world, error

    def encode_prompts(self, texts: list[str]) -> list[str]:
        return texts

    def sample(self, texts: list[str], seeds: list[int]) -> Tensor:
        rngs = [np.random.default_rng(clip_seed(0, text, seed)) for text, seed in zip(texts, seeds, strict=True)]
        scenes = [place_scene(parse_caption(text), rng, self._world) for text, rng in zip(texts, rngs, strict=True)]
        return torch.stack([render_scene(scene) for scene in scenes])

    def encode_video(self, video: Tensor) -> Tensor:
        return video + self._error

    def decode_video(self, latents: Tensor) -> Tensor:
        return latents


@each_plan
def test_the_inspector_is_validated_in_its_world(plan: Plan) -> None:
    measured = figures.measure_inspector(plan, NUM_CLIPS)
    assert measured["patch AUROC"] > 0.97
    assert measured["false alarms on clean clips"] <= 0.01
    assert 0.05 < measured["share of defective patches"] < 0.6


@each_plan
def test_an_autoencoder_s_error_is_told_in_decibels(plan: Plan) -> None:
    generator: Any = Perfect(plan.world, error=0.02)
    measured = figures.measure_autoencoder(plan.world, generator, NUM_CLIPS)
    assert measured["PSNR, dB"] == pytest.approx(40, abs=0.01)  # 0.01 of the range
    assert measured["clean patches called defective"] == 0


@each_plan
def test_a_generator_without_defects_has_none_and_follows_its_prompts(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(figures, "load_critic", lambda world: Critic().eval() if world is plan.world else None)
    generator: Any = Perfect(plan.world)
    measured = figures.measure_generator(plan.world, generator, NUM_CLIPS)
    assert measured["sprite patches defective"] == 0
    assert measured["colour right"] == measured["shape right"] == 1
    assert 0.5 < measured["motion, pixels per frame"] < 1.6
    assert {f"share of {kind}" for kind in KINDS} <= measured.keys()
