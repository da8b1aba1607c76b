"""The recipe for a real model, with a tiny model of the same layout in its place: all stages but the judge.

No judge here can see real clips, so the labels are made by hand, as the recipe tells its users to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from conftest import LORA, manifest, run_here
from halovid.config.recipes import load_config
from halovid.config.reward import RewardConfig
from halovid.measuring.headline import headline_measure
from halovid.measuring.instruments import instrument_measures
from halovid.store.folders import open_stage
from halovid.store.tables import LABELS, rows_to_table
from halovid.store.video import read_video

RECIPE = Path(__file__).parents[2] / "recipes" / "wan2.1-1.3b.yaml"
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not RECIPE.exists(), reason=f"{RECIPE.name} is not among the recipes"),
]

GRID = (2, 2, 3)
SMALL = (
    *("device=cpu", "threads=1", f"grid={{t: {GRID[0]}, h: {GRID[1]}, w: {GRID[2]}}}"),
    *("generator.num_frames=9", "generator.height=64", "generator.width=96", "generator.num_inference_steps=2"),
    *("generate.prompts.count=3", "generate.candidates=2"),
    *("reward.width=16", "reward.layers=1", "reward.heads=2", "reward.video_steps=2", "reward.patch_steps=2"),
    *("align.steps=2", "align.lora={rank: 2, alpha: 2}", "align.sample_prompts=1"),
    *("evaluate.prompts.count=2", "evaluate.num_resamples=100", "report.clips=1"),
)


@pytest.fixture(scope="module")
def arguments(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Recipe, run folder and overrides of every command; generate has run."""
    overrides = [part for text in (f"generator.model={tiny_pipeline}", *SMALL) for part in ("--set", text)]
    arguments = [RECIPE, tmp_path_factory.mktemp("wan") / "run", *overrides]
    outcome = run_here("generate", *arguments)
    assert outcome.code == 0, outcome.stderr
    return arguments


def write_labels(run_dir: Path) -> None:
    """Labels by hand: the later the clip in the table, the better, and the first patch worst."""
    rows = []
    for index, clip in enumerate(pq.read_table(run_dir / "generate" / "clips.parquet").to_pylist()):
        patches = [1.0, *[1.0 + index % 4] * (GRID[0] * GRID[1] * GRID[2] - 1)]
        for aspect in RewardConfig().aspects:
            rows.append(
                {
                    "clip_id": clip["clip_id"],
                    "aspect": aspect,
                    "score": 1.0 + index % 4,
                    "patch_scores": patches if aspect in RewardConfig().patch_aspects else None,
                    "judge": "a person",
                }
            )
    with open_stage(run_dir, "judge", {"judge": "a person"}, ["generate"]) as stage:
        assert stage is not None
        stage.write("labels.parquet", rows_to_table(rows, LABELS))


@pytest.fixture(scope="module")
def aligned(arguments: list[Any]) -> Path:
    """The run folder after labels by hand and all stages up to align."""
    write_labels(arguments[1])
    for stage in ("reward", "score", "pair", "align"):
        outcome = run_here(stage, *arguments)
        assert outcome.code == 0, outcome.stderr
        assert manifest(arguments[1], stage)["skipped"] == []
    return arguments[1]


def test_the_recipe_asks_for_no_embedded_world() -> None:
    config = load_config(RECIPE)
    assert config.generator.model == "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    assert {"inspector", "critic"}.isdisjoint(config.evaluate.instruments)
    measured = {key for name in config.evaluate.instruments for key in instrument_measures(name)}
    assert headline_measure(measured) == "reward_clip", "a run of a real model has a verdict too"
    for prompts in (config.generate.prompts, config.evaluate.prompts):
        assert prompts.file is not None and prompts.file.exists()
    assert config.generate.prompts.file != config.evaluate.prompts.file


def test_generate_makes_clips_of_the_recipes_prompts(arguments: list[Any]) -> None:
    run_dir = arguments[1]
    clips = pq.read_table(run_dir / "generate" / "clips.parquet").to_pylist()
    prompts = load_config(RECIPE).generate.prompts.file.read_text(encoding="utf-8").splitlines()
    assert [clip["prompt"] for clip in clips] == [prompts[index // 2] for index in range(6)]
    for clip in clips:
        assert read_video(run_dir / "generate" / clip["video"], (64, 96)).shape == (3, 9, 64, 96)
        assert clip["fps"] == 16


def test_labels_made_by_hand_teach_the_model_something(aligned: Path) -> None:
    weights = load_file(aligned / "align" / "weights" / LORA)
    assert any(value.any() for name, value in weights.items() if "lora_B" in name)


def test_a_model_in_half_precision_is_trained_in_single(aligned: Path) -> None:
    # in bfloat16 a step of 1e-4 on a weight near 1 is rounded away, and so is a share of 0.02 of the average
    assert load_config(RECIPE).dtype == "bfloat16"
    weights = load_file(aligned / "align" / "weights" / LORA)
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_evaluation_and_report_claim_no_truth_that_nobody_knows(aligned: Path, arguments: list[Any]) -> None:
    for stage in ("baseline", "examine", "evaluate", "report"):
        outcome = run_here(stage, *arguments)
        assert outcome.code == 0, outcome.stderr
    measures = {row["measure"] for row in pq.read_table(aligned / "evaluate" / "metrics.parquet").to_pylist()}
    assert "flow_warp_error" in measures
    assert not {name for name in measures if "defect" in name}
    page = (aligned / "report" / "report.html").read_text(encoding="utf-8")
    assert "By the reward model, which the training itself follows, the aligned generator" in page
    assert "defective sprite patches than" not in page
