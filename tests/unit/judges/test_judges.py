"""Judges: the truth on the rating scale, and the same truth seen through errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import stats

import halovid.world.judge
from halovid.config.run import JudgeConfig
from halovid.judges import make_judge
from halovid.judges.base import label_rows, only_asked
from halovid.judges.simulated import SimulatedJudge
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.records import DEFECT_RATING, HIGHEST, LOWEST, Judgement, Refusal, Request
from halovid.store.tables import LABELS, rows_to_table
from halovid.world.captions import write_caption
from halovid.world.corruptions import Event, render_corrupted
from halovid.world.inspector import Inspection
from halovid.world.judge import InspectorJudge
from halovid.world.render import render_scene
from halovid.world.scenes import sample_scene
from halovid.world.worlds import PANORAMA, PLAIN

GRID = PatchGrid(2, 3, 5)
GEOMETRY = LatentGeometry(4, 8, causal_first_frame=True)
PATCH_ASPECTS = {"visual_quality", "temporal_consistency"}
ASPECTS = PATCH_ASPECTS | {"dynamic_degree", "text_alignment", "factual_consistency"}


class Oracle:
    """A judge with one rating for everything, and none for the prompt "no"."""

    name = "oracle-1"

    def __init__(self, rating: float, shape: tuple[int, int, int] = (2, 3, 5)) -> None:
        self._rating, self._shape = rating, shape

    def judge(self, requests: Sequence[Request], geometry: LatentGeometry) -> list[Judgement | Refusal]:
        answer = Judgement({"a": self._rating, "b": self._rating}, {"a": torch.full(self._shape, self._rating)})
        return [Refusal("because") if request.prompt == "no" else answer for request in requests]


def test_only_what_was_asked_is_kept() -> None:
    answer = Judgement({"a": 3.0}, {"a": torch.arange(30.0).reshape(2, 3, 5)})
    kept = only_asked(answer, [[4, 7], [29]]).patches["a"].flatten()
    assert kept[[4, 7, 29]].tolist() == [4, 7, 29]
    assert kept.isnan().sum() == 27
    assert only_asked(answer, []).patches["a"].isnan().all()


def judged(answer: Judgement | Refusal) -> Judgement:
    assert isinstance(answer, Judgement)
    return answer


def ask(rating: float, error_rate: float, noise: float, clip_id: str = "c", seed: int = 0, size: int = 1) -> Judgement:
    judge = SimulatedJudge(Oracle(rating, (2 * size, 3 * size, 5 * size)), error_rate, noise, seed)
    return judged(judge.judge([Request(torch.zeros(3, 1, 1, 1), "yes", clip_id)], GEOMETRY)[0])


def same(first: Judgement, second: Judgement) -> bool:
    return first.clip == second.clip and all(
        torch.equal(first.patches[aspect], second.patches[aspect]) for aspect in first.patches
    )


@pytest.fixture(scope="module")
def clips() -> list[Request]:
    """A clean clip, a foreign one, a corrupted one, with their prompts."""
    scene, other = sample_scene(91, "heldout"), sample_scene(92, "heldout")
    rng = np.random.default_rng(0)
    events = [Event("noise", 1, 0, 13), Event("bleed", 2, 0, 13)]
    video = [render_scene(scene), torch.zeros(3, 13, 64, 64), render_corrupted(other, events, rng)]
    prompts = [write_caption(scene.spec, rng), "A panda plays the guitar.", write_caption(other.spec, rng)]
    return [Request(*clip) for clip in zip(video, prompts, "abc", strict=True)]


@pytest.fixture(scope="module")
def answers(clips: list[Request]) -> list[Judgement | Refusal]:
    return InspectorJudge(GRID).judge(clips, GEOMETRY)


def test_a_foreign_prompt_is_refused_and_the_others_are_judged(answers: list[Judgement | Refusal]) -> None:
    assert [type(answer) for answer in answers] == [Judgement, Refusal, Judgement]
    assert isinstance(answers[1], Refusal)
    assert "A panda" in answers[1].reason


def test_nothing_but_foreign_prompts_gives_nothing_but_refusals(clips: list[Request]) -> None:
    foreign = [dataclasses.replace(clip, prompt=prompt) for clip, prompt in zip(clips, ("", "dog", "cat"), strict=True)]
    answers = InspectorJudge(GRID).judge(foreign, GEOMETRY)
    assert all(isinstance(answer, Refusal) and answer.reason for answer in answers)
    assert len(answers) == 3


def test_ratings_lie_on_the_scale(answers: list[Judgement | Refusal]) -> None:
    for answer in (judged(answers[0]), judged(answers[2])):
        assert set(answer.clip) == ASPECTS
        assert set(answer.patches) == PATCH_ASPECTS
        assert all(LOWEST <= rating <= HIGHEST for rating in answer.clip.values())
        for ratings in answer.patches.values():
            assert ratings.shape == GRID.shape
            assert (ratings >= LOWEST).all() and (ratings <= HIGHEST).all()


def test_a_clean_clip_is_rated_better_than_a_corrupted_one(answers: list[Judgement | Refusal]) -> None:
    clean, corrupted = judged(answers[0]), judged(answers[2])
    assert clean.clip["visual_quality"] > 4.9
    assert clean.clip["text_alignment"] == clean.clip["factual_consistency"] == HIGHEST
    assert corrupted.clip["visual_quality"] < clean.clip["visual_quality"] - 0.5
    assert (clean.patches["visual_quality"] >= DEFECT_RATING).all()
    assert (corrupted.patches["visual_quality"] < DEFECT_RATING).any()


def test_clips_of_the_panorama_world_are_judged_by_the_same_judge() -> None:
    scene, rng = sample_scene(93, "heldout", PANORAMA), np.random.default_rng(0)
    events = [Event("noise", sprite, 4, 12) for sprite in range(4)]
    clips = (render_scene(scene), render_corrupted(scene, events, rng))
    caption = write_caption(scene.spec, rng)
    clean, corrupted = map(
        judged, InspectorJudge(GRID).judge([Request(clip, caption, "c") for clip in clips], GEOMETRY)
    )
    assert clean.clip["visual_quality"] > 4.9 and clean.clip["text_alignment"] == HIGHEST
    assert corrupted.clip["visual_quality"] < clean.clip["visual_quality"] - 0.5
    assert (corrupted.patches["visual_quality"] < DEFECT_RATING).any()


@pytest.mark.parametrize("shape", [(13, 96, 96), (17, 64, 64), (1, 64, 64)])
def test_clips_of_another_size_than_a_world_s_are_refused_with_the_sizes(shape: tuple[int, int, int]) -> None:
    caption = write_caption(sample_scene(91, "heldout").spec, np.random.default_rng(0))
    [answer] = InspectorJudge(GRID).judge([Request(torch.zeros(3, *shape), caption, "c")], GEOMETRY)
    assert isinstance(answer, Refusal)
    assert "13 frames of 64 x 64 pixels or 17 frames of 96 x 96 pixels" in answer.reason


def test_each_clip_is_judged_by_itself(clips: list[Request], answers: list[Judgement | Refusal]) -> None:
    alone = InspectorJudge(GRID).judge(clips[2:], GEOMETRY)[0]
    for aspect, ratings in judged(alone).patches.items():
        torch.testing.assert_close(ratings, judged(answers[2]).patches[aspect], rtol=0, atol=0.02)


def inspection(defects: list[float]) -> Inspection:
    """What the inspector might find in one clip with 2 sprites, one patch for each of `defects`."""
    count = len(defects)
    distance = torch.tensor(defects, dtype=torch.float64).reshape(1, 1, 1, count)
    return Inspection(
        world=PLAIN,
        patch_defects=distance,
        patch_flicker=distance.flip(-1),
        sprite_patches=torch.zeros(1, 1, 1, count, dtype=torch.bool),
        visibility=torch.tensor([[[0.9, 0.0, 0.3], [0.0, 0.2, 0.2]]]),
        colour_right=torch.tensor([[True, True]]),
        shape_right=torch.tensor([[False, True]]),
        motion=torch.tensor([1.05 / 4]),
        nearest=torch.zeros(1, 3, 13, 64, 64),
    )


def rate(inspection: Inspection, monkeypatch: pytest.MonkeyPatch, caption: str) -> Judgement:
    monkeypatch.setattr(halovid.world.judge, "inspect", lambda *_: inspection)
    return judged(InspectorJudge(GRID).judge([Request(torch.zeros(3, 13, 64, 64), caption, "c")], GEOMETRY)[0])


def test_the_defect_rating_is_the_rating_at_the_defect_threshold(
    monkeypatch: pytest.MonkeyPatch, clips: list[Request]
) -> None:
    defects = [0.0, 0.5, 0.999, 1.0, 1.001, 2.0, 1e3]  # in units of the threshold
    judgement = rate(inspection([share * PLAIN.defect_threshold for share in defects]), monkeypatch, clips[0].prompt)
    ratings = judgement.patches["visual_quality"].flatten()
    assert ratings[3].item() == pytest.approx(DEFECT_RATING, abs=1e-9)
    assert ratings[2] > DEFECT_RATING > ratings[4]
    assert ratings[:2].tolist() == pytest.approx([HIGHEST, HIGHEST])
    assert ratings[-1] == LOWEST
    assert (ratings.diff()[1:] < 0).all()
    assert torch.equal(judgement.patches["temporal_consistency"].flatten().flip(0), ratings)


def test_the_rating_of_a_clip_is_that_of_the_patches_that_matter(
    monkeypatch: pytest.MonkeyPatch, clips: list[Request]
) -> None:
    inspected = inspection([0.0, PLAIN.defect_threshold, 1e3])  # only the last is beyond the threshold
    for sprite_patch, expected in ((1, (DEFECT_RATING + LOWEST) / 2), (0, (HIGHEST + LOWEST) / 2), (2, LOWEST)):
        sprites = torch.arange(3).reshape(1, 1, 1, 3) == sprite_patch
        rated = rate(dataclasses.replace(inspected, sprite_patches=sprites), monkeypatch, clips[0].prompt)
        assert rated.clip["visual_quality"] == pytest.approx(expected)
    assert rate(inspection([0.0, 0.0, 0.0]), monkeypatch, clips[0].prompt).clip["visual_quality"] == HIGHEST


def test_the_other_ratings_of_a_clip(monkeypatch: pytest.MonkeyPatch, clips: list[Request]) -> None:
    rated = rate(inspection([0.0]), monkeypatch, clips[0].prompt).clip
    assert rated["text_alignment"] == pytest.approx(3)  # one of two sprites is right in colour and shape
    assert rated["factual_consistency"] == pytest.approx(1 + 4 * 4 / 6)  # seen in 4 of 6 places
    assert rated["dynamic_degree"] == pytest.approx(2)  # a quarter of full motion
    fast = dataclasses.replace(inspection([0.0]), motion=torch.tensor([99.0]))
    assert rate(fast, monkeypatch, clips[0].prompt).clip["dynamic_degree"] == HIGHEST


def test_a_simulated_judge_without_errors_tells_the_rounded_truth() -> None:
    for truth, rounded in ((1.0, 1), (2.4, 2), (2.6, 3), (4.9, 5)):
        judgement = ask(truth, error_rate=0, noise=0)
        assert set(judgement.clip.values()) == {rounded}
        assert (judgement.patches["a"] == rounded).all()


def test_a_simulated_judge_answers_a_clip_always_alike() -> None:
    first = ask(3.2, 0.3, 0.7, size=4)
    assert same(first, ask(3.2, 0.3, 0.7, size=4))
    assert not same(first, ask(3.2, 0.3, 0.7, size=4, clip_id="d"))
    assert not same(first, ask(3.2, 0.3, 0.7, size=4, seed=1))

    judge = SimulatedJudge(Oracle(3.2, (8, 12, 20)), 0.3, 0.7, seed=0)
    asked = zip(torch.zeros(3, 3, 1, 1, 1), ("yes", "no", "yes"), "xyc", strict=True)
    answers = judge.judge([Request(*clip) for clip in asked], GEOMETRY)
    assert same(judged(answers[2]), first)  # in whatever company
    assert answers[1] == Refusal("because")


def test_simulated_ratings_are_whole_numbers_on_the_scale() -> None:
    judgement = ask(4.4, 0.2, 3.0, size=4)
    for ratings in (*judgement.patches.values(), torch.tensor(list(judgement.clip.values()))):
        assert torch.equal(ratings, ratings.round())
        assert (ratings >= LOWEST).all() and (ratings <= HIGHEST).all()
    assert set(judgement.patches["a"].flatten().tolist()) == {1, 2, 3, 4, 5}


def test_a_judge_that_always_errs_knows_nothing_of_the_truth() -> None:
    assert same(ask(1.0, 1, 0.5, size=6), ask(4.7, 1, 0.5, size=6))
    counts = torch.bincount(ask(3.0, 1, 0.5, size=6).patches["a"].flatten().long(), minlength=6)[1:]
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3  # each rating alike likely
    assert counts.sum() == 2 * 3 * 5 * 6**3


def test_error_rate_and_noise_are_what_they_say() -> None:
    errors = ask(3.0, error_rate=0.3, noise=0, size=7).patches["a"] != 3
    assert errors.float().mean().item() == pytest.approx(0.3 * 4 / 5, abs=0.017)  # four standard deviations
    noisy = ask(3.0, error_rate=0, noise=0.5, size=7).patches["a"]
    assert (noisy != 3).float().mean().item() == pytest.approx(2 * stats.norm.cdf(-1), abs=0.019)
    assert noisy.mean().item() == pytest.approx(3, abs=0.03)


def test_patches_err_apart_from_each_other_and_from_the_clip() -> None:
    ratings = ask(3.0, error_rate=0.5, noise=1.0, size=5).patches["a"]
    for axis in range(3):
        first, second = ratings.unbind(axis)[:2]
        assert abs(np.corrcoef(first.flatten(), second.flatten())[0, 1]) < 0.4
        assert not torch.equal(first, second)


def test_names_tell_the_settings() -> None:
    judge = make_judge(JudgeConfig(judge="simulated", error_rate=0.25, noise=0.75), GRID, seed=11)
    assert isinstance(judge, SimulatedJudge)
    assert all(part in judge.name for part in ("inspector", "0.25", "0.75", "11"))
    truth = make_judge(JudgeConfig(judge="inspector"), GRID, seed=11)
    assert isinstance(truth, InspectorJudge)
    assert truth.name != judge.name


def test_rows_hold_one_aspect_each() -> None:
    answer = Judgement({"a": 2.5, "b": 4.0}, {"a": torch.arange(30.0).reshape(GRID.shape)})
    rows = rows_to_table(label_rows("c7", answer, "me"), LABELS).to_pylist()
    assert [(row["clip_id"], row["aspect"], row["score"], row["judge"]) for row in rows] == [
        ("c7", "a", 2.5, "me"),
        ("c7", "b", 4.0, "me"),
    ]
    assert rows[0]["patch_scores"] == list(range(30))  # time slowest
    assert rows[1]["patch_scores"] is None
