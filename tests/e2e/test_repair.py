"""Repair without a run: clips of prompts or of a folder, by the reward model of another run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conftest import Outcome, run_here
from halovid.store.tables import CLIPS, REPAIRS, read_table

pytestmark = pytest.mark.e2e

PROMPTS = (
    "a small red plain circle moves to the right on a grey background.",
    "a big blue plain cross rises on a navy background.",
)


def test_clips_of_prompts_are_sampled_and_repaired(
    tiny_recipe: Path, first_run: tuple[Path, Outcome], tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS), encoding="utf-8")
    command = ("repair", tiny_recipe, tmp_path / "run", "--prompts", prompts, "--reward", first_run[0])
    outcome = run_here(*command)
    assert outcome.code == 0, outcome.stderr
    assert "2 clips, reward" in outcome.stdout + outcome.stderr
    clips = read_table(tmp_path / "run" / "repair" / "clips.parquet", CLIPS).to_pylist()
    assert [clip["prompt"] for clip in clips] == list(PROMPTS)
    rounds = read_table(tmp_path / "run" / "repair" / "repairs.parquet", REPAIRS).to_pylist()
    for clip in clips:
        rewards = [done["reward"] for done in rounds if done["clip_id"] == clip["clip_id"]]
        assert len(rewards) > 1 and rewards == sorted(rewards)
    again = run_here(*command)
    assert "generate: complete, skipped" in again.stdout + again.stderr


def test_all_clips_of_a_folder_are_repaired(tiny_recipe: Path, first_run: tuple[Path, Outcome], tmp_path: Path) -> None:
    source, trained = tmp_path / "clips", first_run[0] / "align" / "weights"
    source.mkdir()
    for index, clip in enumerate(sorted((first_run[0] / "generate" / "clips").glob("*.mp4"))[:3]):
        shutil.copy(clip, source / f"a small red circle-{index}.mp4")
    options = ("--clips", source, "--reward", first_run[0] / "reward", "--weights", trained)
    outcome = run_here("repair", tiny_recipe, tmp_path / "run", *options)
    assert outcome.code == 0, outcome.stderr
    assert pq.read_table(tmp_path / "run" / "repair" / "clips.parquet").num_rows == 3


def test_what_is_missing_is_told(tiny_recipe: Path, tmp_path: Path) -> None:
    nothing = run_here("repair", tiny_recipe, tmp_path / "run", "--reward", tmp_path)
    assert nothing.code == 2 and "--prompts, or a folder of clips with --clips" in nothing.stderr
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(PROMPTS[0], encoding="utf-8")
    unrewarded = run_here("repair", tiny_recipe, tmp_path / "run", "--prompts", prompts)
    assert unrewarded.code == 2 and "nothing says how good a patch is" in unrewarded.stderr
    nowhere = run_here("repair", tiny_recipe, tmp_path / "run", "--prompts", prompts, "--reward", tmp_path)
    assert nowhere.code == 2 and "holds no readable reward model" in nowhere.stderr
