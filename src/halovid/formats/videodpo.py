"""VideoDPO's folder: clips by number, and pairs of these numbers.

FOLDER/metadata.json   a list of {"basic": {"clip_path", "clip_duration"}, "misc": {"frame_caption": [prompt]}}
FOLDER/pair.json       a list of {"video1": chosen, "video2": rejected, "frame_caption": prompt, "score"}

Source: https://github.com/CIntellifusion/VideoDPO (its data sets). The loader leaves out clips shorter than a second
before it numbers them, and so do we: such clips are kept without a number, and are written last. `score` is a weight of
the pair in VideoDPO's loss and no margin, so we write an additional `margin`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halovid.formats.base import Collection, Exported, RunData, copy_paired, usable_pairs
from halovid.formats.sources import SourceProblem, read_margin, read_number, read_rows, resolve_inside
from halovid.store.errors import InputError
from halovid.store.files import write_json
from halovid.store.foreign import describe

CLIPS, PAIRS = "metadata.json", "pair.json"
_MIN_SECONDS = 1.0  # shorter clips get no number


def read(source: Path) -> Collection:
    """The clips, and the preferences between numbered clips."""
    folder = source.parent if source.name in (CLIPS, PAIRS) else source
    for name in (CLIPS, PAIRS):
        if not (folder / name).is_file():
            raise InputError(f"{folder} holds no {name}; name the folder that holds {CLIPS} and {PAIRS}")
    collection = Collection()
    names_by_number = _read_clips(collection, folder)
    for item, row in read_rows(folder / PAIRS, ("video1", "video2"), collection.skip):
        try:
            chosen, rejected = (_name_of_number(names_by_number, row[key], key) for key in ("video1", "video2"))
            collection.prefer(chosen, rejected, read_margin(row))
        except SourceProblem as problem:
            collection.skip(f"pair {item}", str(problem))
    return collection


def _read_clips(collection: Collection, folder: Path) -> list[str | None]:
    """Adds the clips; returns the names of the numbered ones in order, None for those that can't be used."""
    names_by_number: list[str | None] = []

    def skip_clip(item: str, reason: str) -> None:
        collection.skip(f"clip {item}", reason)
        names_by_number.append(None)  # an unreadable row takes a number too

    for item, row in read_rows(folder / CLIPS, ("basic", "misc"), skip_clip):
        name, takes_number = None, True
        try:
            basic, misc = row["basic"], row["misc"]
            if not isinstance(basic, dict) or not isinstance(misc, dict):
                raise SourceProblem("its basic and misc are no objects")
            takes_number = read_number(basic.get("clip_duration"), "clip_duration", 0) >= _MIN_SECONDS
            path = resolve_inside(folder, basic.get("clip_path"))
            name = collection.add_file(folder, path, _caption(misc.get("frame_caption")))
        except SourceProblem as problem:
            collection.skip(f"clip {item}", str(problem))
        if takes_number:
            names_by_number.append(name)
    return names_by_number


def _caption(value: Any) -> Any:
    """The caption, or the first one of a list of captions; other values come back as they are."""
    value = value[0] if isinstance(value, list) and value else value
    return value.strip() if isinstance(value, str) else value


def _name_of_number(names_by_number: list[str | None], number: Any, key: str) -> str:
    """The name of the clip with this number; `key` is the column that holds the number, for messages."""
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(names_by_number):
        raise SourceProblem(f"{key} is {describe(number)}; clips have the numbers 0 to {len(names_by_number) - 1}")
    name = names_by_number[number]
    if name is None:
        raise SourceProblem(f"{key} is clip {number}, which can't be used")
    return name


def write(run: RunData, target: Path) -> Exported:
    """Writes metadata.json, pair.json and the clips; clips that no pair names are left out."""
    skipped: list[tuple[str, str]] = []
    clips = copy_paired(run, target, skipped)
    seconds = {name: row["num_frames"] / row["fps"] for name, row in clips.items()}
    order = sorted(clips, key=lambda name: seconds[name] < _MIN_SECONDS)  # sorting is stable: short clips go last
    numbers = {name: number for number, name in enumerate(order) if seconds[name] >= _MIN_SECONDS}
    metadata = [
        {
            "basic": {
                "clip_path": f"{name}.mp4",
                "clip_duration": seconds[name],
                "fps": clips[name]["fps"],
                "num_frames": clips[name]["num_frames"],
            },
            "misc": {"frame_caption": [clips[name]["prompt"]]},
        }
        for name in order
    ]
    pairs = []
    for pair in usable_pairs(run, clips, skipped):
        if pair["chosen"] in numbers and pair["rejected"] in numbers:
            pairs.append(
                {
                    "video1": numbers[pair["chosen"]],
                    "video2": numbers[pair["rejected"]],
                    "frame_caption": clips[pair["chosen"]]["prompt"],
                    "margin": pair["clip_margin"],
                }
            )
        else:
            skipped.append((f"pair {pair['chosen']}, {pair['rejected']}", "a clip is shorter than a second"))
    write_json(target / CLIPS, metadata)
    write_json(target / PAIRS, pairs)
    return Exported("pairs", len(pairs), skipped)
