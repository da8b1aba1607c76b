"""What is measured of clips: diversity is a prompt's own, and models are compared prompt by prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.measuring.evaluation import compare
from halovid.measuring.instruments import MEASURES
from halovid.measuring.judge_rating import JudgeInstrument
from halovid.measuring.model_reward import RewardInstrument
from halovid.measuring.plain import DiversityInstrument
from halovid.records import ClipBatch, Judgement, PromptBatch, Refusal, Request, Rewards
from halovid.store.tables import MEASURES as MEASURES_TABLE
from halovid.store.tables import rows_to_table
from halovid.world.captions import write_caption
from halovid.world.corruptions import render_corrupted, sample_events
from halovid.world.inspector import GEOMETRY
from halovid.world.instruments import InspectorInstrument
from halovid.world.render import render_scene
from halovid.world.scenes import place_scene, sample_spec

GRID = PatchGrid(4, 4, 4)


def batch(video: Tensor, rows: list[dict[str, str]]) -> ClipBatch:
    return ClipBatch(video, rows, GEOMETRY, GRID, lambda prompt_id: torch.zeros(1, 1))


def never(clip_id: str, reason: str, again: bool) -> None:
    raise AssertionError(f"{clip_id} was skipped: {reason}")


def diversity(video: Tensor, rows: list[dict[str, str]]) -> Tensor:
    return DiversityInstrument().measure(batch(video, rows), never)["diversity"]


def test_a_clip_is_compared_with_the_other_samples_of_its_prompt_alone() -> None:
    video = torch.stack([torch.full((3, 5, 16, 16), value) for value in (0.0, 0.5, 0.2, 0.1)])
    found = diversity(video, [{"prompt_id": prompt} for prompt in ("a", "b", "a", "c")])
    assert found[[0, 2]].tolist() == pytest.approx([10, 10])  # 0.2 of the range 0..2
    assert found[[1, 3]].isnan().all()


def test_diversity_without_defects_is_that_of_the_clean_clips() -> None:
    clean, corrupted, clips = [], [], []
    for seed in range(6):
        spec = sample_spec(np.random.default_rng(seed), "heldout")
        caption = write_caption(spec, np.random.default_rng(seed))
        for sample in range(2):
            rng = np.random.default_rng([seed, sample])
            scene = place_scene(spec, rng)
            clean.append(render_scene(scene))
            corrupted.append(render_corrupted(scene, sample_events(scene, rng, 0.5), rng))
            clips.append({"prompt_id": str(seed), "prompt": caption})
    true = diversity(torch.stack(clean), clips).mean().item()
    seen = diversity(torch.stack(corrupted), clips).mean().item()
    values = InspectorInstrument().measure(batch(torch.stack(corrupted), clips), never)
    found = values["diversity_without_defects"].mean().item()
    assert seen > true + 1  # defects differ from sample to sample
    assert abs(found - true) < 0.5


def table_of(values: dict[tuple[str, str], float], measure: str = "diversity") -> pa.Table:
    return rows_to_table(
        [
            {"model": model, "prompt_id": prompt, "seed": 0, "measure": measure, "value": value}
            for (model, prompt), value in values.items()
        ],
        MEASURES_TABLE,
    )


def test_models_are_compared_on_the_prompts_that_both_have() -> None:
    values = {("base", "a"): 1, ("base", "b"): 2, ("base", "c"): 9, ("aligned", "a"): 2, ("aligned", "b"): 4}
    (row,) = compare(table_of(values), num_resamples=100, seed=0)
    assert (row["base"], row["aligned"], row["difference"]) == (1.5, 3, 1.5)
    assert (row["prompts"], row["base_clips"], row["aligned_clips"]) == (2, 2, 2)
    assert row["unit"] == MEASURES["diversity"].unit and not math.isnan(row["low"])


def test_one_prompt_is_no_comparison() -> None:
    assert compare(table_of({("base", "a"): 1, ("aligned", "a"): 2}), num_resamples=100, seed=0) == []


class Panel:
    """A judge with fixed ratings, which refuses the prompt "no"."""

    name = "panel-1"

    def judge(self, requests: Sequence[Request], geometry: LatentGeometry) -> list[Judgement | Refusal]:
        answer = Judgement({"a": 1.0, "b": 3.0}, {"a": torch.tensor([[[2.0, 4.0]]])})
        return [Refusal("because", again=True) if request.prompt == "no" else answer for request in requests]


def test_a_judge_s_rating_is_the_mean_over_all_aspects() -> None:
    clips = [{"prompt_id": "p", "prompt": prompt, "clip_id": prompt} for prompt in ("yes", "no")]
    told: list[tuple[str, str, bool]] = []
    clip_batch = batch(torch.zeros(2, 3, 1, 4, 4), clips)
    found = JudgeInstrument(Panel()).measure(clip_batch, lambda *problem: told.append(problem))["judge_rating"]
    assert found[0].item() == 3.0  # the patches of a, 3, and the clip in b, 3
    assert found[1].isnan()
    assert told == [("no", "not rated by the judge: because", True)]


class HalfBlind:
    """A rewarder that refuses the prompt "no" for now."""

    needs_conditioning = False

    def reward(self, video: Tensor, prompts: PromptBatch) -> Rewards:
        assert prompts.conditioning is None
        refusals = tuple(Refusal("down", again=True) if text == "no" else None for text in prompts.texts)
        patches = torch.tensor([[1.0, 3.0], [torch.nan, torch.nan]])[:, None, None]
        return Rewards(torch.tensor([4.0, torch.nan]), patches, refusals)


def test_clips_that_a_rewarder_refuses_are_listed_and_tried_again() -> None:
    skipped: list[tuple[str, str, bool]] = []
    clips = [{"prompt_id": "p", "prompt": prompt, "clip_id": prompt, "fps": 8.0} for prompt in ("yes", "no")]
    clip_batch = batch(torch.zeros(2, 3, 1, 4, 4), clips)
    values = RewardInstrument(HalfBlind()).measure(clip_batch, lambda *problem: skipped.append(problem))
    assert values["reward_clip"][0].item() == 4 and values["reward_patches"][0].item() == 2
    assert values["reward_clip"][1].isnan()
    assert skipped == [("no", "not rewarded: down", True)]
