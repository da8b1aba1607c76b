"""What may be said of a clip or a pair."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from halovid.labelling.answers import ASPECTS, Comparison, Ratings

MARK: dict[str, Any] = {"aspect": "visual_quality", "patch": 3, "kind": "shape", "score": 2}
SCORES = dict.fromkeys(ASPECTS, 4)
LOCAL = ("visual_quality", "temporal_consistency")


def ratings(**content: Any) -> Ratings:
    return Ratings.model_validate_json(json.dumps(content))


@pytest.mark.parametrize(
    "wrong",
    [
        {"scores": {"beauty": 3}},
        {"scores": {"visual_quality": 0}},
        {"scores": {"visual_quality": 6}},
        {"scores": {"visual_quality": 3.5}},
        {"scores": {"visual_quality": "3"}},
        {"scores": {"visual_quality": True}},
        {"scores": {"visual_quality": None}},
        {"marks": [MARK | {"kind": "flicker"}]},
        {"marks": [MARK | {"score": 5}]},
        {"marks": [MARK | {"patch": -1}]},
        {"marks": [MARK | {"more": 1}]},
        {"comment": "x"},
    ],
)
def test_other_content_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ratings(**wrong)


@pytest.mark.parametrize(
    ("content", "finished", "words"),
    [
        ({"scores": SCORES, "marks": [MARK]}, True, None),
        ({}, False, None),
        ({"scores": {"visual_quality": 1}}, True, "no rating of temporal_consistency"),
        ({"marks": [MARK | {"patch": 8}]}, False, "outside of the 8 patches"),
        ({"marks": [MARK, MARK | {"kind": "texture"}]}, False, "marked twice"),
        ({"marks": [MARK | {"aspect": "text_alignment", "kind": "content"}]}, False, "these aspects only"),
    ],
)
def test_ratings_must_fit_the_grid_and_be_whole(content: dict[str, Any], finished: bool, words: str | None) -> None:
    problem = ratings(**content).problem(8, LOCAL, finished)
    assert problem is None if words is None else words in str(problem)


def test_a_comparison_turns_and_turns_back() -> None:
    content = {"preference": 1, "patches": [{"patch": 0, "preference": -1}, {"patch": 2, "preference": 1}]}
    comparison = Comparison.model_validate_json(json.dumps(content))
    swapped = comparison.swapped()
    assert swapped.preference == -1
    assert [entry.preference for entry in swapped.patches] == [1, -1]
    assert swapped.swapped() == comparison
    assert Comparison().swapped().preference is None
    assert Comparison(preference=0).swapped().preference == 0
    assert comparison.problem(3, LOCAL, True) is None
    assert "once" in str(comparison.problem(2, LOCAL, False))
    assert "better" in str(Comparison().problem(2, LOCAL, True))
