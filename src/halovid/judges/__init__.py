"""Judges: the protocol, and one file per kind."""

from __future__ import annotations

from collections.abc import Callable

from halovid.config.run import JudgeConfig
from halovid.judges.base import Judge
from halovid.judges.inspector import InspectorJudge
from halovid.judges.simulated import SimulatedJudge
from halovid.judges.table import TableJudge
from halovid.maths.grid import PatchGrid
from halovid.store.errors import InputError


def _simulated(config: JudgeConfig, grid: PatchGrid, seed: int) -> Judge:
    return SimulatedJudge(InspectorJudge(grid), config.error_rate, config.noise, seed)


def _table(config: JudgeConfig, grid: PatchGrid, seed: int) -> Judge:
    if config.labels is None:
        raise InputError("judge.judge is 'table': name the file with the labels as judge.labels")
    return TableJudge(config.labels, grid)


def _openai(config: JudgeConfig, grid: PatchGrid, seed: int) -> Judge:
    try:
        from halovid.judges.vlm.judge import VlmJudge
    except ImportError as error:
        raise InputError(
            f"judge.judge is 'openai', which needs the package {error.name!r}: pip install 'halovid[vlm]'"
        ) from error
    return VlmJudge(config.vlm, grid)


JUDGES: dict[str, Callable[[JudgeConfig, PatchGrid, int], Judge]] = {
    "inspector": lambda config, grid, seed: InspectorJudge(grid),
    "simulated": _simulated,
    "table": _table,
    "openai": _openai,
}


def make_judge(config: JudgeConfig, grid: PatchGrid, seed: int) -> Judge:
    """The configured judge."""
    return JUDGES[config.judge](config, grid, seed)
