"""Training on rollouts through the real command line: every objective, exact continuation, what is left on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conftest import LORA, Kill, Plan, manifest, run_here, start_apart
from halovid.store.tables import CLIPS, ROLLOUTS, read_table

pytestmark = pytest.mark.e2e

ROLL = "align.rollouts={prompts: 3, clips: 2, updates: 2, random_steps: 1, highest: 1.0, shared_start: true}"
OBJECTIVES = ["gran_nft", "gran_awm", "gran_grpo", "plackett_luce", "gran_dpo"]


def align(recipe: Path, run_dir: Path, objective: str) -> tuple[str, ...]:
    overrides = (ROLL, f"align.objective={{name: {objective}}}", "align.sample_prompts=0")
    return ("align", str(recipe), str(run_dir), *(part for each in overrides for part in ("--set", each)))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_on_what_the_policy_samples(
    objective: str, finished_run: Callable[..., Path], tiny_recipe: Path
) -> None:
    run_dir = finished_run(before="align")
    outcome = run_here(*align(tiny_recipe, run_dir, objective))
    assert outcome.code == 0, outcome.stderr
    rollouts = read_table(run_dir / "align" / "rollouts.parquet", ROLLOUTS)
    assert len(rollouts) == 3 * 3 * 2 and rollouts["reward"].null_count == 0
    assert {len(patches) for patches in rollouts["patch_rewards"].to_pylist()} == {8}
    log = [json.loads(line) for line in (run_dir / "align" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["cost/rewarded_clips"] == 18 and log[-1]["cost/denoiser_calls"] > log[0]["cost/denoiser_calls"]
    assert set(manifest(run_dir, "align")["inputs"]) == {"generate", "reward"}
    weights = load_file(run_dir / "align" / "weights" / LORA)
    assert any(value.any() for name, value in weights.items() if "lora_B" in name)


@pytest.mark.parametrize("pattern", ["rollouts/round-000001.safetensors", "rollouts/round-000002.parquet"])
def test_a_training_on_rollouts_that_is_killed_ends_the_same(
    pattern: str, finished_run: Callable[..., Path], tiny_recipe: Path, tmp_path: Path
) -> None:
    run_dir = finished_run(before="align")
    argv = align(tiny_recipe, run_dir, "gran_nft")
    assert run_here(*argv).code == 0
    (run_dir / "align").rename(tmp_path / "whole")
    process = start_apart(Plan(argv, tmp_path / "log", kill=Kill(pattern, "after")))
    process.join()
    assert process.exitcode != 0
    assert run_here(*argv).code == 0
    for name in ("log.jsonl", "rollouts.parquet", f"weights/{LORA}"):
        assert (run_dir / "align" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_run_on_rollouts_makes_no_pairs(finished_run: Callable[..., Path], tiny_recipe: Path) -> None:
    run_dir = finished_run(before="good")
    overrides = [part for each in (ROLL, "align.objective={name: gran_nft}") for part in ("--set", each)]
    outcome = run_here("run", tiny_recipe, run_dir, *overrides)
    assert outcome.code == 0, outcome.stderr
    assert not any((run_dir / name).exists() for name in ("good", "repair", "restore", "score", "pair"))
    assert (run_dir / "report" / "report.html").exists()


def test_candidates_have_the_guidance_scales_in_turn(tiny_recipe: Path, tmp_path: Path) -> None:
    """Each clip is that of its own scale alone, whatever it is sampled with, and the table is in order of prompts."""
    first = ("--set", "generate.prompts.count=2", "--set", "generator.batch_size=3")
    mixed, plain = tmp_path / "mixed", {scale: tmp_path / f"plain-{scale}" for scale in (1.0, 6.0)}
    assert run_here("generate", tiny_recipe, mixed, *first, "--set", "generate.guidance_scales=[1.0, 6.0]").code == 0
    for scale, run_dir in plain.items():
        assert (
            run_here("generate", tiny_recipe, run_dir, *first, "--set", f"generator.guidance_scale={scale}").code == 0
        )
    rows = read_table(mixed / "generate" / "clips.parquet", CLIPS).to_pylist()
    assert [row["clip_id"] for row in rows] == [f"p{prompt:05d}-{clip:02d}" for prompt in range(2) for clip in range(3)]
    differing = 0
    for row in rows:
        index = int(row["clip_id"][-2:])
        latents = {
            scale: load_file(run_dir / "generate" / row["latents"])["latents"] for scale, run_dir in plain.items()
        }
        own = load_file(mixed / "generate" / row["latents"])["latents"]
        torch.testing.assert_close(own, latents[(1.0, 6.0)[index % 2]], rtol=0, atol=1e-4)
        differing += not torch.allclose(latents[1.0], latents[6.0], atol=1e-3)
    assert differing
