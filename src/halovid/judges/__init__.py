"""Judges: the protocol, and one file per kind."""

from __future__ import annotations

from collections.abc import Callable

from halovid.config import JudgeConfig
from halovid.grid import PatchGrid
from halovid.judges.base import Judge
from halovid.judges.inspector import InspectorJudge
from halovid.judges.simulated import SimulatedJudge


def _simulated(config: JudgeConfig, grid: PatchGrid, seed: int) -> Judge:
    return SimulatedJudge(InspectorJudge(grid), config.error_rate, config.noise, seed)


JUDGES: dict[str, Callable[[JudgeConfig, PatchGrid, int], Judge]] = {
    "inspector": lambda config, grid, seed: InspectorJudge(grid),
    "simulated": _simulated,
}


def make_judge(config: JudgeConfig, grid: PatchGrid, seed: int) -> Judge:
    """The configured judge."""
    return JUDGES[config.judge](config, grid, seed)
