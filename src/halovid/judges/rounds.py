"""Which patches a judge is asked about: all, a random share, or those that a table of questions names.

A table of questions lists them in rounds, the order in which they were chosen; a patch is its index in [t, h, w],
flattened.
"""

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
    """Clip id -> the patches of it that the judge is asked about; None when it is asked about all.

    Raises:
        InputError: `judge.questions` can't be read, or names a clip or a patch that does not exist.
    """
    judge, size = config.judge, config.grid.num_patches
    if judge.questions is not None:
        rounds_by_clip = read_rounds(judge.questions)
        asked = (patch for rounds in rounds_by_clip.values() for patches in rounds for patch in patches)
        if any(not 0 <= patch < size for patch in asked):
            raise InputError(f"{judge.questions} asks about patches that the grid {config.grid.shape} has not")
        unknown = rounds_by_clip.keys() - {row["clip_id"] for row in rows}
        if unknown:
            raise InputError(
                f"{judge.questions} asks about clips that the run has not, {describe(min(unknown))} among "
                f"{len(unknown)}; make the file with `halovid select` from this run"
            )
        return {row["clip_id"]: rounds_by_clip.get(row["clip_id"], []) for row in rows}
    if judge.share == 1:
        return None
    count = max(1, round(judge.share * size))
    rngs = {row["clip_id"]: np.random.default_rng(clip_seed(config.seed, row["clip_id"], -1)) for row in rows}
    return {clip_id: [sorted(rng.permutation(size)[:count].tolist())] for clip_id, rng in rngs.items()}


def read_rounds(path: Path) -> dict[str, Rounds]:
    """Clip id -> the rounds of patches that a table of questions has for it.

    Raises:
        InputError: the file can't be read, something is missing in a row, or a clip has a patch twice.
    """
    rows = read_table_of_others(path).conform(QUESTIONS).to_pylist()
    for number, row in enumerate(rows, start=1):
        if None in (*row.values(), *(row["patches"] or ())):
            raise InputError(f"{path}, row {number}: clip_id, round and all patches must be given, none may be null")
    rounds_by_clip: dict[str, Rounds] = {}
    for row in sorted(rows, key=lambda row: row["round"]):
        rounds_by_clip.setdefault(row["clip_id"], []).append(row["patches"])
    for clip_id, rounds in rounds_by_clip.items():
        counts = Counter(patch for patches in rounds for patch in patches)
        twice = [patch for patch, count in counts.items() if count > 1]
        if twice:
            raise InputError(
                f"{path} asks more than once about patch {min(twice)} of clip {describe(clip_id)}; give it once"
            )
    return rounds_by_clip


def write_rounds(path: Path, rounds_by_clip: dict[str, Rounds]) -> None:
    """Writes a table of questions; `read_rounds` gives the same back."""
    rows = [
        {"clip_id": clip_id, "round": number, "patches": patches}
        for clip_id, rounds in rounds_by_clip.items()
        for number, patches in enumerate(rounds)
    ]
    write_table(path, rows_to_table(rows, QUESTIONS))
