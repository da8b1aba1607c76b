"""Labels that exist already, from people or another program, as a judge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
import torch

from halovid.config.run import JudgeConfig
from halovid.config.sections import ASPECTS
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.records import HIGHEST, LOWEST, Judgement, Refusal, Request
from halovid.store.errors import InputError
from halovid.store.files import hash_file
from halovid.store.tables import LABELS

_COLUMNS = ("clip_id", "aspect", "score", "patch_scores")
_SCHEMA = pa.schema([LABELS.field(name) for name in _COLUMNS])


class TableJudge:
    """Answers with the rows of a label file: Parquet or JSON Lines with the columns of `tables.LABELS`.

    Args:
        path: one row per clip and aspect; `patch_scores` holds t * h * w ratings, time slowest, null where nobody was
            asked, or is null itself or left out.
        grid: the patches that the ratings are of.

    Raises:
        InputError: the file can't be read, lacks a column, or a rating is not on the scale; the first bad row is named.
    """

    def __init__(self, path: Path, grid: PatchGrid) -> None:
        rows = _read_rows(path)
        self.name = f"table-1({path.name}, sha256={hash_file(path)[:12]})"
        self._path = path
        self._answers: dict[str, Judgement] = {}
        for number, row in enumerate(rows, start=1):
            answer = self._answers.setdefault(row["clip_id"], Judgement({}, {}))
            problem = _problem(row, answer, grid)
            if problem:
                raise InputError(
                    f"{path}, label {number} (clip {row['clip_id']!r}, aspect {row['aspect']!r}): {problem}"
                )
            answer.clip[row["aspect"]] = row["score"]
            if row["patch_scores"] is not None:
                scores = [math.nan if score is None else score for score in row["patch_scores"]]
                answer.patches[row["aspect"]] = torch.tensor(scores).view(grid.shape)

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
    """The rows of a label file, with exactly the needed columns."""
    try:
        table = pq.read_table(path) if path.suffix == ".parquet" else _read_lines(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"judge.labels {path} is not a readable Parquet or JSON Lines file ({error})") from error
    missing = {"clip_id", "aspect", "score"} - set(table.column_names)
    if missing:
        raise InputError(f"judge.labels {path} lacks the columns {sorted(missing)}; docs/tables.md tells what it holds")
    if "patch_scores" not in table.column_names:
        table = table.append_column("patch_scores", pa.nulls(len(table)))
    try:
        return table.select(_COLUMNS).cast(_SCHEMA).to_pylist()
    except (ValueError, pa.ArrowException) as error:
        raise InputError(f"judge.labels {path} holds a column of another type than a label table ({error})") from error


def _read_lines(path: Path) -> pa.Table:
    """The rows of JSON Lines, the known columns read as what they are: an id that looks like a date is an id."""
    return pyarrow.json.read_json(path, parse_options=pyarrow.json.ParseOptions(explicit_schema=_SCHEMA))


def _problem(row: dict[str, Any], answer: Judgement, grid: PatchGrid) -> str | None:
    """What is wrong with a row, if anything."""
    if row["clip_id"] is None or row["aspect"] is None:
        return "clip_id and aspect must be given"
    if row["aspect"] not in ASPECTS:
        return f"there is no such aspect; known are {', '.join(ASPECTS)}"
    if row["aspect"] in answer.clip:
        return "the file holds a second label of it; merge them first"
    patches = row["patch_scores"]
    if patches is not None and len(patches) != grid.num_patches:
        return f"{len(patches)} patch scores; the grid {grid.shape} has {grid.num_patches}"
    rated = [score for score in patches or () if score is not None]
    for value in (row["score"], *rated):
        if value is None or not math.isfinite(value) or not LOWEST <= value <= HIGHEST:
            return f"rating {value}; ratings are numbers from {LOWEST:g} to {HIGHEST:g}"
    return None
