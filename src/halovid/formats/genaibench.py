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
_TEXT_COLUMNS = ("prompt", "left_video", "right_video", "vote_type")
_SIGN_OF_VOTE = {"leftvote": 1, "rightvote": -1, "tievote": 0, "bothbad_vote": 0}
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("prompt", "left_model", "left_video", "right_model", "right_video")),
        *(("vote_type", pa.string()), ("margin", pa.float64())),
    ]
)


def read(source: Path) -> Collection:
    """The clips of all votes, and a preference for every vote that is no tie."""
    collection = Collection()
    root, table = find_table(source, (".parquet", ".json", ".jsonl", ".csv"))
    votes_by_pair: dict[str, dict[str, tuple[str, float]]] = {}
    for item, row in read_rows(table, (), collection.skip):
        try:
            if "vote_type" in row:
                _read_vote(collection, root, row)
            else:
                _read_side(collection, root, row, votes_by_pair)
        except SourceProblem as problem:
            collection.skip(item, str(problem))
    for number, votes in votes_by_pair.items():
        try:
            collection.prefer_by_sign(*_preferred_side(votes))
        except SourceProblem as problem:
            collection.skip(f"pair {number}", str(problem))
    return collection


def _read_vote(collection: Collection, root: Path, row: dict[str, Any]) -> None:
    """Adds the clips and the vote of a row of GenAI-Bench."""
    missing = [name for name in _TEXT_COLUMNS if not isinstance(row.get(name), str) or not row[name]]
    if missing:
        raise SourceProblem(f"it lacks {', '.join(missing)}, or holds something else than text there")
    if row["vote_type"] not in _SIGN_OF_VOTE:
        raise SourceProblem(f"vote_type is {describe(row['vote_type'])}; allowed are {', '.join(_SIGN_OF_VOTE)}")
    left, right = (_add_clip(collection, root, row, column) for column in ("left_video", "right_video"))
    collection.prefer_by_sign(left, right, _SIGN_OF_VOTE[row["vote_type"]], read_margin(row))


def _add_clip(collection: Collection, root: Path, row: dict[str, Any], column: str) -> str:
    """Adds the clip that a column names and returns its name in the collection."""
    return collection.add_file(root, _find_video(root, row[column]), row["prompt"].strip())


def _find_video(root: Path, video: Any) -> Path:
    """The file of a clip; a link stands for the file of the same name in videos/ or beside the table."""
    if not isinstance(video, str) or "://" not in video:
        return resolve_inside(root, video)
    name = video.split("?")[0].rsplit("/", 1)[-1]
    return resolve_inside(root, f"videos/{name}" if is_inside(root, f"videos/{name}") else name)


def _read_side(
    collection: Collection, root: Path, row: dict[str, Any], votes_by_pair: dict[str, dict[str, tuple[str, float]]]
) -> None:
    """Adds the clip of a row of VideoScore-Bench, and notes its vote: pair number -> side -> (clip, votes for it)."""
    number, _, side = str(row.get("id")).rpartition("_")
    if side not in ("left", "right") or "preference" not in row:
        raise SourceProblem("it holds neither a vote_type nor, with an id NNNN_left or NNNN_right, a preference")
    clip = videofeedback.read_clip(root, row)
    collection.add(clip)
    votes_by_pair.setdefault(number, {})[side] = clip.name, read_number(row["preference"], "preference")


def _preferred_side(votes: dict[str, tuple[str, float]]) -> tuple[str, str, int]:
    """The left clip, the right clip and the sign of the preference: 1 for the left one, -1 for the right one, or 0."""
    if len(votes) < 2:
        raise SourceProblem("only one of its clips is there")
    (left, for_left), (right, for_right) = votes["left"], votes["right"]
    return left, right, (for_left > for_right) - (for_left < for_right)


def write(run: RunData, target: Path) -> Exported:
    """Writes the table of votes and videos/; clips that no pair names are left out."""
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
