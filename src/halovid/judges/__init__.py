"""Judges: the protocol, and one file per kind."""

from __future__ import annotations

from halovid.config.run import JudgeConfig
from halovid.judges.base import Judge
from halovid.maths.grid import PatchGrid
from halovid.store.errors import InputError
from halovid.store.lazy import load_named

# name in a recipe -> function (config, grid, seed) that makes the judge
JUDGES = {
    "inspector": "halovid.world.judge:open_inspector",
    "simulated": "halovid.judges.simulated:open_simulated",
    "table": "halovid.judges.table:open_table",
    "openai": "halovid.judges.vlm.judge:open_vlm",
}


def make_judge(config: JudgeConfig, grid: PatchGrid, seed: int) -> Judge:
    """The configured judge.

    Raises:
        InputError: a package is missing that the judge needs, or the judge's own settings do not fit.
    """
    try:
        open_judge = load_named(JUDGES[config.judge])
    except ImportError as error:
        raise InputError(
            f"judge.judge is {config.judge!r}, which needs the package {error.name!r}: pip install 'halovid[vlm]'"
        ) from error
    judge: Judge = open_judge(config, grid, seed)
    return judge


def make_truth(grid: PatchGrid) -> Judge:
    """The judge that knows the true defects of clips of the embedded world; clips of other prompts it refuses."""
    return make_judge(JudgeConfig(judge="inspector"), grid, seed=0)
