"""VideoGen-RewardBench, and the training data of VideoAlign: a CSV of pairs with a preference by axis.

FOLDER/videogen-rewardbench.csv   path_A, path_B, prompt, VQ, MQ, TA and often Overall: A, B or same
FOLDER/videos/*.mp4

Source: https://huggingface.co/datasets/KwaiVGI/VideoGen-RewardBench. `Overall` decides where it is given, else the
majority of the axes; a pair without a better clip is listed as skipped, since our pairs have no ties. We write a
`margin` column too, which others need not read; an axis without ratings is left empty, which their loader masks.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from halovid.formats.base import Collection, Exported, Row, RunData, copy_paired, swapped, usable_pairs
from halovid.formats.sources import SourceProblem, find_table, read_margin, read_rows, resolve_inside
from halovid.store.errors import InputError
from halovid.store.files import write_text
from halovid.store.foreign import describe

TABLE = "videogen-rewardbench.csv"
AXES = {"VQ": "visual_quality", "MQ": "temporal_consistency", "TA": "text_alignment"}
_SIGNS = {"A": 1, "B": -1, "same": 0}
_COLUMNS = (
    *("path_A", "path_B", "A_model", "B_model", "prompt", *AXES, "Overall"),
    *("fps_A", "num_frames_A", "fps_B", "num_frames_B", "margin"),
)


def read(source: Path) -> Collection:
    """The clips of all rows, and the pairs with a preference."""
    found = Collection()
    root, table = find_table(source, (".csv",))
    for item, row in read_rows(table, ("path_A", "path_B", "prompt"), found.skip):
        if "Overall" not in row and not AXES.keys() <= row.keys():
            raise InputError(f"{table} lacks the columns of preferences: Overall, or {', '.join(AXES)}")
        try:
            prompt = row["prompt"].strip()
            first, second = (found.add_file(root, resolve_inside(root, row[f"path_{s}"]), prompt) for s in "AB")
            found.prefer_by_sign(first, second, _sign(row), read_margin(row))
        except SourceProblem as problem:
            found.skip(item, str(problem))
    return found


def _sign(row: dict[str, Any]) -> int:
    """1 where A is preferred, -1 where B is, 0 for neither."""
    own = [axis for axis in ("Overall",) if row.get(axis)] or [axis for axis in AXES if row.get(axis)]
    wrong = [axis for axis in own if row[axis] not in _SIGNS]
    if wrong:
        raise SourceProblem(f"{wrong[0]} is {describe(row[wrong[0]])}; allowed are A, B and same")
    total = sum(_SIGNS[row[axis]] for axis in own)
    return (total > 0) - (total < 0)


def write(run: RunData, target: Path) -> Exported:
    """The CSV and videos/; clips that no pair has are not copied."""
    skipped: list[tuple[str, str]] = []
    clips = copy_paired(run, target / "videos", skipped)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    pairs = usable_pairs(run, clips, skipped)
    for pair in pairs:
        writer.writerow(_line(pair, clips, run.ratings or {}))
    write_text(target / TABLE, text.getvalue())
    return Exported("pairs", len(pairs), skipped)


def _line(pair: Row, clips: dict[str, Row], ratings: dict[str, dict[str, float]]) -> Row:
    """A row of the CSV."""
    sides = ("rejected", "chosen") if swapped(pair) else ("chosen", "rejected")
    first, second = (clips[pair[side]] for side in sides)
    scores = [ratings.get(clip["clip_id"], {}) for clip in (first, second)]
    line = {
        "prompt": first["prompt"],
        "Overall": "A" if sides[0] == "chosen" else "B",
        "margin": repr(pair["clip_margin"]),
    }
    for axis, aspect in AXES.items():
        if all(aspect in own for own in scores):
            difference = scores[0][aspect] - scores[1][aspect]
            line[axis] = "same" if difference == 0 else "A" if difference > 0 else "B"
    for side, clip in (("A", first), ("B", second)):
        line |= {
            f"path_{side}": f"videos/{clip['clip_id']}.mp4",
            f"{side}_model": "halovid",
            f"fps_{side}": clip["fps"],
            f"num_frames_{side}": clip["num_frames"],
        }
    return line
