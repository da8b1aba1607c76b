"""The plans of the trainings: whole, and of the worlds that there are."""

from __future__ import annotations

from itertools import pairwise

import pytest

from halovid.models.loading import PACKAGED
from halovid.world import PANORAMA_PIPELINE, packaged_pipeline
from halovid.world.critic import WEIGHTS
from halovid.world.inspector import GEOMETRY
from halovid.world.worlds import WORLDS
from halovid.world_training.plans import PLANS, Plan, Schedule

each_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


def test_every_world_has_a_plan_and_a_critic() -> None:
    assert {name: plan.world for name, plan in PLANS.items()} == WORLDS
    assert PLANS.keys() == WEIGHTS.keys()
    assert len({plan.record for plan in PLANS.values()}) == len(PLANS)


def test_a_plan_makes_the_pipeline_that_recipes_name() -> None:
    assert {plan.model: plan.pipeline for plan in PLANS.values()} == {
        "world": packaged_pipeline(),
        "panorama": PANORAMA_PIPELINE,
    }
    assert {plan.model for plan in PLANS.values()} == PACKAGED.keys()
    assert all(plan.start != plan.pipeline for plan in PLANS.values())


@each_plan
def test_clips_are_sampled_in_the_size_of_the_world_whatever_the_model(plan: Plan) -> None:
    for config in (plan.generator_config(), plan.generator_config("some/folder")):
        assert (config.num_frames, config.height, config.width) == plan.world.clip_shape
    assert plan.generator_config().model == plan.model
    assert plan.generator_config("some/folder").model == "some/folder"


@each_plan
def test_every_latent_frame_has_a_weight_and_the_mean_is_one(plan: Plan) -> None:
    assert len(plan.frame_weight) == GEOMETRY.latent_shape(*plan.world.clip_shape)[0]
    assert sum(plan.frame_weight) / len(plan.frame_weight) == pytest.approx(1)


@each_plan
def test_phases_follow_each_other_and_fit_the_clips(plan: Plan) -> None:
    assert all(first.until < second.until for first, second in pairwise(plan.vae_phases))
    for phase in plan.vae_phases:
        assert GEOMETRY.latent_shape(phase.num_frames, *[phase.crop or plan.world.frame_size] * 2)
        assert phase.num_frames <= plan.world.num_frames and (phase.crop or 0) <= plan.world.frame_size


def test_the_rate_of_a_transformer_rises_and_falls_to_zero() -> None:
    schedule = Schedule(num_steps=100, rate=2.0, warmup=10)
    rates = [schedule.rate_at(step) for step in range(101)]
    assert rates[0] == rates[100] == 0
    assert rates[5] == 1.0 and rates[50] == 1.0
    assert max(rates) == pytest.approx(1.8)
