"""GenAI-Bench's video pairs: votes on two clips of one prompt.

FOLDER/NAME.parquet (.json, .jsonl, .csv)   prompt, left_video, right_video, vote_type: leftvote, rightvote, tievote
                                            or bothbad_vote; a video is a path, or a link of which the last part counts
FOLDER/videos/*.mp4

Also read: the same votes as VideoScore-Bench has them, a row per clip with id NNNN_left or NNNN_right, its images and
its preference. Sources: https://huggingface.co/datasets/TIGER-Lab/GenAI-Bench and .../VideoScore-Bench. Ties are listed
as skipped, since our pairs have none; their clips are kept. We write a `margin` column too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from halovid.formats import videofeedback
from halovid.formats.base import Collection, Exported, RunData, copy_paired, swapped, usable_pairs
from halovid.formats.sources import (
    SourceProblem,
    find_table,
    is_inside,
    read_margin,
    read_number,
    read_rows,
    resolve_inside,
)
from halovid.store.files import atomic_path
from halovid.store.foreign import describe

TABLE = "genai-bench.parquet"
_TEXTS = ("prompt", "left_video", "right_video", "vote_type")
_SIGNS = {"leftvote": 1, "rightvote": -1, "tievote": 0, "bothbad_vote": 0}
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt", "left_model", "left_video", "right_model", "right_video")),
        *(("vote_type", pa.string()), ("margin", pa.float64())),
    ]
)


def read(source: Path) -> Collection:
    """The clips of all votes, and the pairs of those that prefer one."""
    found = Collection()
    root, table = find_table(source, (".parquet", ".json", ".jsonl", ".csv"))
    halves: dict[str, dict[str, tuple[str, float]]] = {}
    for item, row in read_rows(table, (), found.skip):
        try:
            if "vote_type" in row:
                _read_vote(found, root, row)
            else:
                _read_half(found, root, row, halves)
        except SourceProblem as problem:
            found.skip(item, str(problem))
    for number, sides in halves.items():
        try:
            found.prefer_by_sign(*_complete(sides))
        except SourceProblem as problem:
            found.skip(f"pair {number}", str(problem))
    return found


def _read_vote(found: Collection, root: Path, row: dict[str, Any]) -> None:
    """Takes a row of the published votes."""
    missing = [name for name in _TEXTS if not isinstance(row.get(name), str) or not row[name]]
    if missing:
        raise SourceProblem(f"it lacks {', '.join(missing)}, or holds something else than text there")
    if row["vote_type"] not in _SIGNS:
        raise SourceProblem(f"vote_type is {describe(row['vote_type'])}; allowed are {', '.join(_SIGNS)}")
    left, right = (_add(found, root, row, column) for column in ("left_video", "right_video"))
    found.prefer_by_sign(left, right, _SIGNS[row["vote_type"]], read_margin(row))


def _add(found: Collection, root: Path, row: dict[str, Any], column: str) -> str:
    """Adds the clip of a column; its name."""
    return found.add_file(root, _find(root, row[column]), row["prompt"].strip())


def _find(root: Path, video: Any) -> Path:
    """The file of a clip: of a link, the last part below videos/ or beside the table."""
    if not isinstance(video, str) or "://" not in video:
        return resolve_inside(root, video)
    name = video.split("?")[0].rsplit("/", 1)[-1]
    return resolve_inside(root, f"videos/{name}" if is_inside(root, f"videos/{name}") else name)


def _read_half(
    found: Collection, root: Path, row: dict[str, Any], halves: dict[str, dict[str, tuple[str, float]]]
) -> None:
    """Takes a row of VideoScore-Bench: one clip of a pair, and how it was voted for."""
    number, _, side = str(row.get("id")).rpartition("_")
    if side not in ("left", "right") or "preference" not in row:
        raise SourceProblem("it holds neither a vote_type nor, with an id NNNN_left or NNNN_right, a preference")
    clip = videofeedback.read_clip(root, row)
    found.add(clip)
    halves.setdefault(number, {})[side] = clip.name, read_number(row["preference"], "preference")


def _complete(sides: dict[str, tuple[str, float]]) -> tuple[str, str, int]:
    """Both clips of a pair, and which is preferred: 1 for the left one, -1 for the right one, 0 for neither."""
    if len(sides) < 2:
        raise SourceProblem("only one of its clips is there")
    (left, for_left), (right, for_right) = sides["left"], sides["right"]
    return left, right, (for_left > for_right) - (for_left < for_right)


def write(run: RunData, target: Path) -> Exported:
    """The table of votes and videos/; clips that no pair has are not copied."""
    skipped: list[tuple[str, str]] = []
    clips = copy_paired(run, target / "videos", skipped)
    rows = []
    for pair in usable_pairs(run, clips, skipped):
        sides = ("rejected", "chosen") if swapped(pair) else ("chosen", "rejected")
        left, right = (clips[pair[side]] for side in sides)
        rows.append(
            {
                "prompt": left["prompt"],
                "left_model": "halovid",
                "left_video": f"videos/{left['clip_id']}.mp4",
                "right_model": "halovid",
                "right_video": f"videos/{right['clip_id']}.mp4",
                "vote_type": "leftvote" if sides[0] == "chosen" else "rightvote",
                "margin": pair["clip_margin"],
            }
        )
    with atomic_path(target / TABLE) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temporary)
    return Exported("pairs", len(rows), skipped)
