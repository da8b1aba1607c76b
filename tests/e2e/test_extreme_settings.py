"""Values at the ends of what validates carry a run through to its report."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import run_here

pytestmark = pytest.mark.e2e


def test_the_largest_seed_and_share_carry_a_run_through(tiny_recipe: Path, tmp_path: Path) -> None:
    extremes = (f"seed={2**63 - 1}", "reward.held_out=0.9", "generator.fps=1000", "evaluate.num_resamples=100")
    overrides = [word for setting in extremes for word in ("--set", setting)]
    outcome = run_here("run", tiny_recipe, tmp_path / "run", *overrides)
    assert outcome.code == 0, outcome.stderr
    assert (tmp_path / "run" / "report" / "report.html").exists()
