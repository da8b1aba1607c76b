"""The table of the stages: what a run of a recipe consists of."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halovid import stages
from halovid.config.recipes import make_config
from halovid.stages import STAGES, required_stages

ALL_CLIPS: dict[str, Any] = {"good": {}, "repair": {}, "restore": {}}
SOURCES = ("candidates", "good", "repaired", "before_repair", "twins", "restored")


def required(**recipe: Any) -> set[str]:
    return set(required_stages(make_config(recipe)))


def test_the_usual_run_needs_everything_but_further_clips() -> None:
    assert required() == set(STAGES) - {"good", "repair", "restore"}


def test_a_section_that_nothing_uses_is_not_run() -> None:
    assert required(**ALL_CLIPS) == required()


@pytest.mark.parametrize(
    "score",
    [{"released": "folder"}, {"server": {"family": "videoscore2", "model": "m", "base_url": "http://localhost"}}],
)
def test_a_released_reward_model_needs_no_labels_and_no_training(score: dict[str, Any]) -> None:
    assert required(score=score) == required() - {"judge", "reward", "examine"}


def test_pairs_that_no_reward_decides_need_no_judge() -> None:
    needed = required(**ALL_CLIPS, pair={"sources": ["restored"]})
    assert needed == set(STAGES) - {"judge", "reward", "repair", "score", "examine"}


def test_best_of_several_samples_needs_no_training_of_the_generator() -> None:
    assert not {"pair", "align", "score", "good", "restore"} & required(evaluate={"generator": "base", "best_of": 4})


def test_repaired_clips_need_rewards_even_where_pairs_do_not() -> None:
    remade = {"repair": {}, "restore": {"source": "repaired"}, "pair": {"sources": ["restored"]}}
    assert {"reward", "repair", "restore"} <= required(**remade) and "score" not in required(**remade)
    assert "reward" in required(evaluate={"repair": {}}, pair={"sources": ["restored"]}, good={}, restore={})


def test_what_is_given_is_not_made() -> None:
    config = make_config({})
    assert "judge" not in required_stages(config, available=["reward"])
    assert required_stages(config, "pair", available=["score"]) == ["score", "pair"]


@given(
    st.sets(st.sampled_from(SOURCES), min_size=1),
    st.booleans(),
    st.booleans(),
    st.integers(1, 2),
    st.sampled_from(["good", "candidates", "repaired"]),
)
def test_every_stage_reads_only_stages_of_the_run_that_come_before_it(
    sources: set[str], released: bool, reward: bool, best_of: int, originals: str
) -> None:
    recipe = {
        "good": {},
        "repair": {},
        "restore": {"source": originals},
        "pair": {"sources": sorted(sources)},
        "score": {"released": "folder"} if released else {},
        "evaluate": {"instruments": ["plain", *(["reward"] if reward else [])], "best_of": best_of},
    }
    config = make_config(recipe)
    needed = required_stages(config)
    assert needed == [name for name in STAGES if name in needed]
    for place, name in enumerate(needed):
        assert set(STAGES[name].reads(config)) <= set(needed[:place])


def test_every_stage_of_the_table_is_a_module_that_opens_its_folder_with_the_table() -> None:
    folder = Path(stages.__file__).parent
    for name in STAGES:
        source = (folder / f"{name}.py").read_text(encoding="utf-8")
        assert f'STAGES["{name}"].reads(config)' in source
        names = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
        assert "run" in names
