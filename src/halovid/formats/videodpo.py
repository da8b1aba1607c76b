"""VideoDPO's folder: clips by number, and pairs of these numbers.

FOLDER/metadata.json   a list of {"basic": {"clip_path", "clip_duration"}, "misc": {"frame_caption": [prompt]}}
FOLDER/pair.json       a list of {"video1": chosen, "video2": rejected, "frame_caption": prompt, "score"}

Source: https://github.com/CIntellifusion/VideoDPO (its data sets). The loader leaves out clips shorter than a second
before it numbers them, and so do we: such clips are kept without a number, and are written last. `score` weighs the
pairs there and tells nothing of the margin, for which we write a `margin` of our own.
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
_SHORTEST = 1.0  # seconds


def read(source: Path) -> Collection:
    """The clips, and the pairs of those that have a number."""
    folder = source.parent if source.name in (CLIPS, PAIRS) else source
    for name in (CLIPS, PAIRS):
        if not (folder / name).is_file():
            raise InputError(f"{folder} holds no {name}; name the folder that holds {CLIPS} and {PAIRS}")
    found = Collection()
    numbered = _read_clips(found, folder)
    for item, row in read_rows(folder / PAIRS, ("video1", "video2"), found.skip):
        try:
            chosen, rejected = (_lookup(numbered, row[key], key) for key in ("video1", "video2"))
            found.prefer(chosen, rejected, read_margin(row))
        except SourceProblem as problem:
            found.skip(f"pair {item}", str(problem))
    return found


def _read_clips(found: Collection, folder: Path) -> list[str | None]:
    """Takes the clips; the name of each by its number, None where it can't be used."""
    numbered: list[str | None] = []

    def lose(item: str, reason: str) -> None:
        found.skip(f"clip {item}", reason)
        numbered.append(None)  # it has a number all the same

    for item, row in read_rows(folder / CLIPS, ("basic", "misc"), lose):
        name, counts = None, True
        try:
            basic, misc = row["basic"], row["misc"]
            if not isinstance(basic, dict) or not isinstance(misc, dict):
                raise SourceProblem("its basic and misc are no objects")
            counts = read_number(basic.get("clip_duration"), "clip_duration", 0) >= _SHORTEST
            path = resolve_inside(folder, basic.get("clip_path"))
            name = found.add_file(folder, path, _caption(misc.get("frame_caption")))
        except SourceProblem as problem:
            found.skip(f"clip {item}", str(problem))
        if counts:
            numbered.append(name)
    return numbered


def _caption(value: Any) -> Any:
    """A caption, or the first of a list of them."""
    value = value[0] if isinstance(value, list) and value else value
    return value.strip() if isinstance(value, str) else value


def _lookup(numbered: list[str | None], number: Any, key: str) -> str:
    """The name of the clip of a number."""
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(numbered):
        raise SourceProblem(f"{key} is {describe(number)}; clips have the numbers 0 to {len(numbered) - 1}")
    name = numbered[number]
    if name is None:
        raise SourceProblem(f"{key} is clip {number}, which can't be used")
    return name


def write(run: RunData, target: Path) -> Exported:
    """metadata.json, pair.json and the clips; clips that no pair has are not copied."""
    skipped: list[tuple[str, str]] = []
    clips = copy_paired(run, target, skipped)
    seconds = {name: row["num_frames"] / row["fps"] for name, row in clips.items()}
    order = sorted(clips, key=lambda name: seconds[name] < _SHORTEST)  # stable: only short ones move, to the end
    numbers = {name: number for number, name in enumerate(order) if seconds[name] >= _SHORTEST}
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
