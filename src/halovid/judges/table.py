"""Labels that exist already, from people or another program, as a judge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from halovid.config.run import JudgeConfig
from halovid.config.sections import ASPECTS
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.records import HIGHEST, LOWEST, Judgement, Refusal, Request
from halovid.store.errors import InputError
from halovid.store.files import hash_file
from halovid.store.foreign import describe, read_table_of_others
from halovid.store.tables import LABELS


class TableJudge:
    """Answers with the rows of a label file: Parquet or JSON Lines with the columns of `tables.LABELS`.

    Args:
        path: one row per clip and aspect. `patch_scores` is a list of t * h * w ratings in the order of [t, h, w], with
            null for a patch that nobody was asked about; it may be null itself, or the column be left out.
        grid: the patches that the ratings are of.

    Raises:
        InputError: the file can't be read, lacks a column, or has a label that can't be used; the first one is named.
    """

    def __init__(self, path: Path, grid: PatchGrid) -> None:
        rows = _read_rows(path)
        self.name = f"table-1({path.name}, sha256={hash_file(path)[:12]})"
        self._path = path
        self._answers: dict[str, Judgement] = {}
        for number, row in enumerate(rows, start=1):
            judgement = self._answers.setdefault(row["clip_id"], Judgement({}, {}))
            problem = _problem(row, judgement, grid)
            if problem:
                label = f"clip {describe(row['clip_id'])}, aspect {describe(row['aspect'])}"
                raise InputError(f"{path}, label {number} ({label}): {problem}")
            judgement.clip[row["aspect"]] = row["score"]
            if row["patch_scores"] is not None:
                scores = [math.nan if score is None else score for score in row["patch_scores"]]
                judgement.patches[row["aspect"]] = torch.tensor(scores).view(grid.shape)

    @property
    def clip_ids(self) -> set[str]:
        """The clips that the file has labels of."""
        return set(self._answers)

    def judge(self, requests: Sequence[Request], geometry: LatentGeometry) -> list[Judgement | Refusal]:
        """The labels of each clip; a clip without any gives a refusal."""
        unknown = Refusal(f"{self._path} has no label of it")
        return [self._answers.get(request.clip_id, unknown) for request in requests]


def open_table(config: JudgeConfig, grid: PatchGrid, seed: int) -> TableJudge:
    """The labels of the file that `judge.labels` names.

    Raises:
        InputError: no file is named, or `TableJudge` can't use it.
    """
    if config.labels is None:
        raise InputError("judge.judge is 'table': name the file with the labels as judge.labels")
    return TableJudge(config.labels, grid)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a label file."""
    table = read_table_of_others(path)
    missing = {"clip_id", "aspect", "score"} - table.columns
    if missing:
        raise InputError(f"judge.labels {path} lacks the columns {sorted(missing)}; docs/tables.md tells what it holds")
    return table.conform(LABELS).to_pylist()


def _problem(row: dict[str, Any], judgement: Judgement, grid: PatchGrid) -> str | None:
    """What is wrong with a row, if anything; `judgement` holds the earlier labels of its clip."""
    if row["clip_id"] is None or row["aspect"] is None:
        return "clip_id and aspect must be given"
    if row["aspect"] not in ASPECTS:
        return f"there is no such aspect; known are {', '.join(ASPECTS)}"
    if row["aspect"] in judgement.clip:
        return "the file holds a second label of it; merge them first"
    patch_scores = row["patch_scores"]
    if patch_scores is not None and len(patch_scores) != grid.num_patches:
        return f"{len(patch_scores)} patch scores; the grid {grid.shape} has {grid.num_patches}"
    known_scores = [score for score in patch_scores or () if score is not None]
    for rating in (row["score"], *known_scores):
        if rating is None or not math.isfinite(rating) or not LOWEST <= rating <= HIGHEST:
            return f"rating {rating}; ratings are numbers from {LOWEST:g} to {HIGHEST:g}"
    return None
