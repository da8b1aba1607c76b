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
_SIGN_OF_VOTE = {"A": 1, "B": -1, "same": 0}
_COLUMNS = (
    *("path_A", "path_B", "A_model", "B_model", "prompt", *AXES, "Overall"),
    *("fps_A", "num_frames_A", "fps_B", "num_frames_B", "margin"),
)


def read(source: Path) -> Collection:
    """The clips of all rows, and a preference for every row that prefers one of its clips."""
    collection = Collection()
    root, table = find_table(source, (".csv",))
    for item, row in read_rows(table, ("path_A", "path_B", "prompt"), collection.skip):
        if "Overall" not in row and not AXES.keys() <= row.keys():
            raise InputError(f"{table} lacks the columns of preferences: Overall, or {', '.join(AXES)}")
        try:
            prompt = row["prompt"].strip()
            first, second = (
                collection.add_file(root, resolve_inside(root, row[f"path_{side}"]), prompt) for side in "AB"
            )
            collection.prefer_by_sign(first, second, _sign(row), read_margin(row))
        except SourceProblem as problem:
            collection.skip(item, str(problem))
    return collection


def _sign(row: dict[str, Any]) -> int:
    """1 where A is preferred, -1 where B is, 0 for neither."""
    deciding_axes = ["Overall"] if row.get("Overall") else [axis for axis in AXES if row.get(axis)]
    wrong = [axis for axis in deciding_axes if row[axis] not in _SIGN_OF_VOTE]
    if wrong:
        raise SourceProblem(f"{wrong[0]} is {describe(row[wrong[0]])}; allowed are A, B and same")
    total = sum(_SIGN_OF_VOTE[row[axis]] for axis in deciding_axes)
    return (total > 0) - (total < 0)


def write(run: RunData, target: Path) -> Exported:
    """Writes the CSV and videos/; clips that no pair names are left out."""
    skipped: list[tuple[str, str]] = []
    clips = copy_paired(run, target / "videos", skipped)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    pairs = usable_pairs(run, clips, skipped)
    for pair in pairs:
        writer.writerow(_csv_row(pair, clips, run.ratings or {}))
    write_text(target / TABLE, text.getvalue())
    return Exported("pairs", len(pairs), skipped)


def _csv_row(pair: Row, clips: dict[str, Row], ratings: dict[str, dict[str, float]]) -> Row:
    """The row of a pair in the CSV; clips are by exported id, ratings by clip id and aspect."""
    sides = ("rejected", "chosen") if swapped(pair) else ("chosen", "rejected")
    first, second = (clips[pair[side]] for side in sides)
    first_ratings, second_ratings = (ratings.get(clip["clip_id"], {}) for clip in (first, second))
    csv_row = {
        "prompt": first["prompt"],
        "Overall": "A" if sides[0] == "chosen" else "B",
        "margin": repr(pair["clip_margin"]),
    }
    for axis, aspect in AXES.items():
        if aspect in first_ratings and aspect in second_ratings:
            difference = first_ratings[aspect] - second_ratings[aspect]
            csv_row[axis] = "same" if difference == 0 else "A" if difference > 0 else "B"
    for side, clip in (("A", first), ("B", second)):
        csv_row |= {
            f"path_{side}": f"videos/{clip['clip_id']}.mp4",
            f"{side}_model": "halovid",
            f"fps_{side}": clip["fps"],
            f"num_frames_{side}": clip["num_frames"],
        }
    return csv_row
