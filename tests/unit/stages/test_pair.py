"""Pairs from rewards: margins of clips and of patches, on the judged grid and on coarser ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from halovid.config.pairs import PairConfig
from halovid.config.recipes import make_config
from halovid.config.run import RunConfig
from halovid.maths.grid import PatchGrid
from halovid.measuring.raters import Rater
from halovid.stages.pair import (
    kept_pairs,
    make_good_pairs,
    make_pairs,
    make_preferred_pairs,
    make_repair_pairs,
    make_twin_pairs,
    with_folder,
)
from halovid.store.errors import InputError
from halovid.store.folders import StageFolder
from halovid.store.tables import CLIPS, PAIRS, REPAIRS, REWARDS, patch_matrix, rows_to_table

GRID = PatchGrid(2, 2, 2)


def rewards(values: list[float], patches: np.ndarray) -> pa.Table:
    """One prompt's clips."""
    rows = [
        {"clip_id": f"c{i}", "prompt_id": "p", "reward": value, "patch_rewards": own.tolist()}
        for i, (value, own) in enumerate(zip(values, patches, strict=True))
    ]
    return with_folder(rows_to_table(rows, REWARDS), "generate")


def pair(table: pa.Table, folder: Path, grid: PatchGrid | None = None) -> pa.Table:
    return make_pairs(table, RunConfig(grid=GRID, pair=PairConfig(grid=grid)), StageFolder(folder, ""))


def test_a_pair_holds_the_differences_of_its_clips(tmp_path: Path) -> None:
    patches = np.arange(16.0).reshape(2, 8)
    patches[1, 3] = 0.0  # the clip that wins overall loses this patch
    table = pair(rewards([1.0, 3.0], patches), tmp_path)
    assert table.column("chosen").to_pylist() == ["c1"]
    assert table.column("clip_margin").to_pylist() == [2.0]
    assert patch_matrix(table, "patch_margins").tolist() == [[8, 8, 8, -3, 8, 8, 8, 8]]


@pytest.mark.parametrize("grid", [PatchGrid(2, 1, 1), PatchGrid(1, 2, 2), PatchGrid(1, 1, 1)])
def test_a_coarser_grid_holds_the_mean_margins(tmp_path: Path, grid: PatchGrid) -> None:
    patches = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    table = pair(rewards([1.0, 0.0], patches), tmp_path, grid)
    axes = tuple(axis for axis in range(3) if grid.shape[axis] == 1)
    expected = (patches[0] - patches[1]).reshape(2, 2, 2).mean(axes)
    np.testing.assert_allclose(patch_matrix(table, "patch_margins")[0], expected.ravel(), rtol=1e-5, atol=1e-6)


def test_a_finer_grid_than_the_judged_one_is_refused() -> None:
    with pytest.raises(InputError, match=r"pair\.grid \(1, 2, 8\) must not be finer than grid \(4, 4, 4\)"):
        make_config({"pair": {"grid": {"t": 1, "h": 2, "w": 8}}})


def test_rewards_of_another_grid_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"the rewards or preferences have 4 patches, the recipe's grid \(2, 2, 2\) has 8"
    ):
        pair(rewards([1.0, 0.0], np.zeros((2, 4))), tmp_path)


def many_rewards(count: int) -> pa.Table:
    """Two clips of each of `count` prompts."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "clip_id": f"{p}-{i}",
            "prompt_id": str(p),
            "reward": rng.normal(),
            "patch_rewards": rng.normal(size=8).tolist(),
        }
        for p in range(count)
        for i in range(2)
    ]
    return with_folder(rows_to_table(rows, REWARDS), "generate")


def test_fewer_pairs_are_a_part_of_more() -> None:
    def kept(limit: int | None) -> list[int]:
        return kept_pairs(9, RunConfig(pair=PairConfig(limit=limit))).tolist()

    assert kept(None) == kept(20) == list(range(9))
    assert len(kept(5)) == 5 and set(kept(3)) < set(kept(5)) < set(range(9))


def test_weights_are_one_unless_rare_pairs_shall_count_more(tmp_path: Path) -> None:
    plain = pair(many_rewards(5), tmp_path)
    assert plain.column("weight").to_pylist() == [1.0] * 5
    config = RunConfig(grid=GRID, pair=PairConfig(rarity_power=1.0))
    weights = make_pairs(many_rewards(5), config, StageFolder(tmp_path, "")).column("weight").to_numpy()
    assert weights.mean() == pytest.approx(1) and weights.std() > 0.1


def test_good_clips_meet_every_candidate_of_their_prompt_and_nobody_else(tmp_path: Path) -> None:
    def table(prefix: str, rewarded: dict[str, list[float]]) -> pa.Table:
        rows = [
            {"clip_id": f"{prefix}-{p}-{i}", "prompt_id": p, "reward": value, "patch_rewards": [value] * 8}
            for p, values in rewarded.items()
            for i, value in enumerate(values)
        ]
        return with_folder(rows_to_table(rows, REWARDS), "generate")

    good, stage = table("good", {"a": [3.0, 1.5], "c": [2.0]}), StageFolder(tmp_path, "")
    pairs = make_good_pairs(good, table("own", {"a": [1.0, 2.0], "b": [0.0, 9.0]}), RunConfig(grid=GRID), stage)
    sides = set(zip(pairs.column("chosen").to_pylist(), pairs.column("rejected").to_pylist(), strict=True))
    assert sides == {("good-a-0", "own-a-0"), ("good-a-0", "own-a-1"), ("good-a-1", "own-a-0"), ("own-a-1", "good-a-1")}
    assert (pairs.column("clip_margin").to_numpy() > 0).all()
    assert {entry["item"] for entry in stage.skipped} == {"b", "c"}


def test_a_clip_meets_its_twin_where_that_is_worse(tmp_path: Path) -> None:
    def remade(prompt: str, original: str, twin: str) -> dict[str, Any]:
        margins = {"clip_margin": 0.5, "patch_margins": [1.0] * 4 + [0.0] * 4, "weight": 1.0}
        folders = {"chosen_folder": "good", "rejected_folder": "restore"}
        return {"prompt_id": prompt, "chosen": original, "rejected": twin} | folders | margins

    def rewarded(prompt: str, clip: str, reward: float, patches: list[float]) -> dict[str, Any]:
        return {"clip_id": clip, "prompt_id": prompt, "reward": reward, "patch_rewards": patches}

    clips = [
        rewarded("a", "good", 3.0, [3.0] * 8),
        rewarded("a", "worse", 2.0, [4.0, 1.0] + [3.0] * 6),
        rewarded("a", "better", 3.5, [3.5] * 8),
        rewarded("b", "alone", 3.0, [3.0] * 8),
    ]
    pairs = [remade("a", "good", "worse"), remade("a", "good", "better"), remade("b", "alone", "unreadable")]
    stage = StageFolder(tmp_path, "")
    config = RunConfig(grid=GRID, pair=PairConfig(twin_margin=0.25))
    table = make_twin_pairs(
        rows_to_table(pairs, PAIRS), with_folder(rows_to_table(clips, REWARDS), "good"), config, stage
    )
    assert table.select(["prompt_id", "chosen", "rejected", "clip_margin"]).to_pylist() == [
        {"prompt_id": "a", "chosen": "good", "rejected": "worse", "clip_margin": 1.125}
    ]
    assert patch_matrix(table, "patch_margins").tolist() == [[-0.75, 2.25, 0.25, 0.25, 0, 0, 0, 0]]
    assert [entry["item"] for entry in stage.skipped] == ["b"]


def test_a_repaired_clip_meets_the_candidate_that_it_was_made_from(tmp_path: Path) -> None:
    def rewarded(clip: str, reward: float) -> dict[str, Any]:
        return {"prompt_id": "p", "clip_id": clip, "reward": reward, "patch_rewards": [reward] * GRID.num_patches}

    rounds = [
        dict.fromkeys(REPAIRS.names) | {"clip_id": f"r{clip}", "original": f"c{clip}", "round": number}
        for clip, number in [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]
    ]
    repaired = rows_to_table([rewarded("r0", 4.5), rewarded("r1", 4.0), rewarded("r2", 3.0)], REWARDS)
    candidates = rows_to_table([rewarded("c0", 4.25), rewarded("c1", 4.0), rewarded("c3", 1.0)], REWARDS)
    rewards = pa.concat_tables([with_folder(repaired, "repair"), with_folder(candidates, "generate")])
    table = make_repair_pairs(
        rows_to_table(rounds, REPAIRS), rewards, RunConfig(grid=GRID), StageFolder(tmp_path, "")
    )  # r1 was not made better, and the original of r2 has no reward
    columns = ["chosen", "chosen_folder", "rejected", "rejected_folder", "clip_margin"]
    assert table.select(columns).to_pylist() == [
        dict(zip(columns, ("r0", "repair", "c0", "generate", 0.25), strict=True))
    ]


CLIP_ROWS = [
    dict.fromkeys(CLIPS.names)
    | {"clip_id": f"c{i}", "prompt_id": f"p{i // 3}", "prompt": "", "seed": i, "video": "", "latents": "", "fps": 8.0}
    for i in range(6)
]


def preferred(folder: Path, preferences: dict[tuple[str, str], float], **patches: list[float]) -> tuple[pa.Table, Any]:
    """The pairs of some preferences; patches by the pair's name."""
    local = {pair: np.array(patches["".join(pair)]) for pair in preferences if "".join(pair) in patches}
    rater, stage = Rater("everybody", preferences=preferences, patch_preferences=local), StageFolder(folder, "")
    table = make_preferred_pairs(rater, rows_to_table(CLIP_ROWS, CLIPS), RunConfig(grid=GRID), stage)
    return table, stage.skipped


def test_people_decide_which_clip_and_which_patch_is_better(tmp_path: Path) -> None:
    local = [1.0, -1.0, 0.5, 0, 0, 0, 0, 0]
    table, skipped = preferred(tmp_path, {("c0", "c1"): 1.0, ("c2", "c1"): -0.5, ("c4", "c3"): 1.0}, c2c1=local)
    assert table.select(["prompt_id", "chosen", "rejected", "clip_margin"]).to_pylist() == [
        {"prompt_id": "p0", "chosen": "c0", "rejected": "c1", "clip_margin": 1.0},
        {"prompt_id": "p0", "chosen": "c1", "rejected": "c2", "clip_margin": 0.5},
        {"prompt_id": "p1", "chosen": "c4", "rejected": "c3", "clip_margin": 1.0},
    ]
    assert patch_matrix(table, "patch_margins").tolist() == [[0] * 8, [-value for value in local], [0] * 8]
    assert not skipped


def test_ties_and_pairs_of_other_clips_are_listed(tmp_path: Path) -> None:
    table, skipped = preferred(tmp_path, {("c0", "c1"): 0.0, ("c0", "c4"): 1.0, ("c0", "x"): 1.0, ("c1", "c2"): 1.0})
    assert len(table) == 1
    assert [item["item"] for item in skipped] == ["c0/c1", "c0/c4", "c0/x"]
    with pytest.raises(InputError, match="decides no pair"):
        preferred(tmp_path, {("c0", "c1"): 0.0})


def test_preferences_of_another_grid_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"preferences have 4 patches, the recipe's grid \(2, 2, 2\) has 8"):
        preferred(tmp_path, {("c0", "c1"): 1.0}, c0c1=[1.0] * 4)
