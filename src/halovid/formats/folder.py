"""A plain folder of clips with a table of prompts.

FOLDER/NAME.mp4       or a picture, NAME.png
FOLDER/prompts.csv    columns: video (the file, relative to the folder), prompt
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from halovid.formats.base import Collection, Exported, RunData, SourceClip, copy_clips
from halovid.formats.sources import (
    VIDEO_SUFFIXES,
    SourceProblem,
    find_table,
    read_rows,
    relative_name,
    resolve_inside,
)
from halovid.store.files import write_text

TABLE = "prompts.csv"
_COLUMNS = ("video", "prompt")


def read(source: Path) -> Collection:
    """The clips that the table names, with their prompts; videos that it does not name are listed as skipped."""
    collection = Collection()
    usual_table = source / TABLE
    root, table = find_table(usual_table if usual_table.is_file() else source, (".csv",))
    for item, row in read_rows(table, _COLUMNS, collection.skip):
        try:
            path = resolve_inside(root, row["video"])
            name = relative_name(root, path)
            if name in collection.clips:
                raise SourceProblem(f"the clip {name!r} has a row already")
            collection.add(SourceClip(name, row["prompt"].strip(), (path,)))
        except SourceProblem as problem:
            collection.skip(item, str(problem))
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and name not in collection.clips:
            if not path.is_symlink():  # a link's target has a name of its own
                collection.skip(name, f"{table.name} gives it no usable prompt")
    return collection


def write(run: RunData, target: Path) -> Exported:
    """Writes prompts.csv and one mp4 per clip, or one png of a clip of one frame."""
    skipped: list[tuple[str, str]] = []
    count = 0
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in copy_clips(run.clips, target, skipped, pictures=True):
        count += 1
        writer.writerow({"video": row["file"], "prompt": row["prompt"]})
    write_text(target / TABLE, text.getvalue())
    return Exported("clips", count, skipped)
