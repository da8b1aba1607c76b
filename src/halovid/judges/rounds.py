"""Which patches a judge is asked about: all, a random share, or those that a table of questions names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from halovid.config.run import RunConfig
from halovid.maths.seeds import clip_seed
from halovid.records import Rounds
from halovid.store.errors import InputError
from halovid.store.foreign import describe, read_table_of_others
from halovid.store.tables import QUESTIONS, rows_to_table, write_table


def planned_rounds(config: RunConfig, rows: Sequence[Mapping[str, Any]]) -> dict[str, Rounds] | None:
    """The patches of each clip that the judge is asked about, by clip id; None when it is asked about all.

    Raises:
        InputError: `judge.questions` can't be read, or names clips that the run or patches that the grid has not.
    """
    judge, size = config.judge, config.grid.num_patches
    if judge.questions is not None:
        asked = read_rounds(judge.questions)
        if any(not 0 <= patch < size for rounds in asked.values() for patches in rounds for patch in patches):
            raise InputError(f"{judge.questions} asks about patches that the grid {config.grid.shape} has not")
        others = asked.keys() - {row["clip_id"] for row in rows}
        if others:
            raise InputError(
                f"{judge.questions} asks about clips that the run has not, {describe(min(others))} among "
                f"{len(others)}; make the file with `halovid select` from this run"
            )
        return {row["clip_id"]: asked.get(row["clip_id"], []) for row in rows}
    if judge.share == 1:
        return None
    count = max(1, round(judge.share * size))
    orders = {row["clip_id"]: np.random.default_rng(clip_seed(config.seed, row["clip_id"], -1)) for row in rows}
    return {name: [sorted(rng.permutation(size)[:count].tolist())] for name, rng in orders.items()}


def read_rounds(path: Path) -> dict[str, Rounds]:
    """The rounds of each clip in a table of questions.

    Raises:
        InputError: the file can't be read, something is missing in a row, or a clip has a patch twice.
    """
    rows = read_table_of_others(path).conform(QUESTIONS).to_pylist()
    for number, row in enumerate(rows, start=1):
        if None in (*row.values(), *(row["patches"] or ())):
            raise InputError(f"{path}, row {number}: clip_id, round and all patches must be given, none may be null")
    by_clip: dict[str, Rounds] = {}
    for row in sorted(rows, key=lambda row: row["round"]):
        by_clip.setdefault(row["clip_id"], []).append(row["patches"])
    for name, rounds in by_clip.items():
        counts = Counter(patch for patches in rounds for patch in patches)
        twice = [patch for patch, count in counts.items() if count > 1]
        if twice:
            raise InputError(
                f"{path} asks more than once about patch {min(twice)} of clip {describe(name)}; give it once"
            )
    return by_clip


def write_rounds(path: Path, rounds: dict[str, Rounds]) -> None:
    """Writes a table of questions."""
    rows = [
        {"clip_id": name, "round": number, "patches": patches}
        for name, rounds_of_clip in rounds.items()
        for number, patches in enumerate(rounds_of_clip)
    ]
    write_table(path, rows_to_table(rows, QUESTIONS))
