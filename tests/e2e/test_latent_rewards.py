"""Rewards by the hidden states of the denoiser, through the real command line: from judged clips to report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import run_here
from halovid.store.tables import REWARDS, read_table

pytestmark = pytest.mark.e2e

DENOISER = ("reward.backbone=denoiser", "reward.levels=[0.1, 0.5]")
REJECT = ("evaluate.generator=base", "evaluate.best_of=4", "evaluate.reject={level: 0.5, keep: 0.5}")


def with_settings(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def test_a_run_is_rewarded_by_its_own_denoiser(finished_run: Callable[..., Path], tiny_recipe: Path) -> None:
    run_dir = finished_run(before="reward")
    outcome = run_here("run", tiny_recipe, run_dir, *with_settings(*DENOISER))
    assert outcome.code == 0, outcome.stderr
    rewards = read_table(run_dir / "score" / "generate" / "rewards.parquet", REWARDS)
    assert len(rewards) == 12 and len(set(rewards["reward"].to_pylist())) == 12
    assert (run_dir / "repair" / "repairs.parquet").exists() and (run_dir / "report" / "report.html").exists()
    rejected = run_here("run", tiny_recipe, run_dir, *with_settings(*DENOISER, *REJECT))
    assert rejected.code == 0, rejected.stderr


def test_early_rejection_needs_such_a_reward_model(finished_run: Callable[..., Path], tiny_recipe: Path) -> None:
    outcome = run_here("run", tiny_recipe, finished_run(), *with_settings(*REJECT))
    assert outcome.code == 2 and "use backbone 'denoiser'" in outcome.stderr
