"""What formats read and write: clips with their prompts, ratings and preferences."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from halovid.formats.sources import SourceProblem, relative_name, resolve_inside
from halovid.records import prompt_problem
from halovid.store.errors import InputError
from halovid.store.files import atomic_path, check_file
from halovid.store.video import convert_video, probe_video

Row = dict[str, Any]
_SIDES = ("chosen", "rejected")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True)
class SourceClip:
    """A clip as it stands in the data set that it is read from.

    name: unique within the data set. files: one video file, or one picture file per frame, in order. fps: frame rate
    of picture files; None for a video file, which holds its own. ratings: aspect -> 1..5, empty where there are none.
    """

    name: str
    prompt: str
    files: tuple[Path, ...]
    fps: float | None = None
    ratings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Preference:
    """Two clips of one prompt, by name; margin > 0 says how much better the chosen one is."""

    chosen: str
    rejected: str
    margin: float = 1.0


@dataclass
class Collection:
    """The usable clips (name -> clip) and preferences of a data set, and (item, reason) of everything skipped."""

    clips: dict[str, SourceClip] = field(default_factory=dict)
    preferences: list[Preference] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    _pairs: set[frozenset[str]] = field(default_factory=set)

    def skip(self, item: str, reason: str) -> None:
        """Records an item that can't be used; characters that are not valid Unicode are escaped."""
        self.skipped.append((_printable(item), _printable(reason)))

    def add(self, clip: SourceClip) -> None:
        """Adds a clip; adding an equal clip again changes nothing.

        Raises:
            SourceProblem: its prompt can't be used, or a different clip has this name.
        """
        if _printable(clip.name) != clip.name:
            raise SourceProblem("its name is no Unicode text")
        problem = prompt_problem(clip.prompt)
        if problem:
            raise SourceProblem(f"the prompt can't be used: {problem}")
        if self.clips.setdefault(clip.name, clip) != clip:
            raise SourceProblem(f"the clip {clip.name!r} is named twice, with another prompt, rating or file")

    def add_file(self, root: Path, path: Path, prompt: str) -> str:
        """Adds the clip in one video file and returns its name. Raises the same errors as `add`."""
        clip = SourceClip(relative_name(root, path), prompt, (path,))
        self.add(clip)
        return clip.name

    def prefer(self, chosen: str, rejected: str, margin: float = 1.0) -> None:
        """Adds a preference between two clips that were added before.

        Raises:
            SourceProblem: both are the same clip, their prompts differ, or they were paired before.
        """
        pair = frozenset((chosen, rejected))
        if len(pair) < 2:
            raise SourceProblem("a clip is compared with itself")
        if pair in self._pairs:
            raise SourceProblem("the pair is listed twice")
        if self.clips[chosen].prompt != self.clips[rejected].prompt:
            raise SourceProblem("the two clips have different prompts")
        self._pairs.add(pair)
        self.preferences.append(Preference(chosen, rejected, margin))

    def prefer_by_sign(self, first: str, second: str, sign: int, margin: float = 1.0) -> None:
        """Adds a vote between two clips: for the first one if sign > 0, for the second one if sign < 0.

        Raises:
            SourceProblem: the vote is for neither (sign 0); or as `prefer`.
        """
        if sign == 0:
            raise SourceProblem("neither clip is preferred, which no pair can hold; its clips are kept")
        self.prefer(*((first, second) if sign > 0 else (second, first)), margin)

    def clip_ids(self) -> dict[str, str]:
        """Clip name -> clip id: the file name without its suffix if that is plain and unique, else a hash of the name.

        Ids become file names, so they hold ASCII letters, digits, dot, dash and underscore only.
        """
        stems = {name: PurePosixPath(name).stem for name in self.clips}
        counts = Counter(stem.casefold() for stem in stems.values())
        return {
            name: stem if is_plain_name(stem) and counts[stem.casefold()] == 1 else _hashed_id(name)
            for name, stem in stems.items()
        }


def is_plain_name(text: str) -> bool:
    """Whether a text is a file name on any system: at most 80 ASCII letters, digits, dots, dashes, underscores."""
    return _PLAIN_NAME.fullmatch(text) is not None


def _printable(text: str) -> str:
    """The text with everything that UTF-8 can't encode written as escapes."""
    return text.encode(errors="backslashreplace").decode()


def _hashed_id(name: str) -> str:
    """A clip id made of a hash of the clip's name."""
    return f"clip-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:16]}"


@dataclass(frozen=True)
class RunClip:
    """A clip of a run: its row of tables.CLIPS, and the stage folder that its files lie in."""

    row: Row
    folder: Path

    @property
    def clip_id(self) -> str:
        """The clip's id in its stage folder."""
        return self.row["clip_id"]

    def file(self) -> Path:
        """The path of its video.

        Raises:
            SourceProblem: the video is missing or lies outside the folder.
            DamageError: the video is not the one that the stage wrote.
        """
        file = resolve_inside(self.folder, self.row["video"])
        check_file(file, self.row["video_sha256"], self.folder.name)
        return file


@dataclass(frozen=True)
class RunData:
    """What an export can write of a run.

    clips: the candidates. pair_only: clips of the stages `good` and `restore`, exported only if a pair names them.
    ratings: clip id -> aspect -> 1..5, None without current labels. pairs: rows of tables.PAIRS, None without current
    pairs.
    """

    clips: list[RunClip]
    pair_only: list[RunClip]
    ratings: dict[str, dict[str, float]] | None
    pairs: list[Row] | None

    def need_ratings(self) -> dict[str, dict[str, float]]:
        """The ratings; InputError when the run has none."""
        if self.ratings is None:
            raise InputError("this format holds ratings and the run has none of its clips; run `halovid judge` first")
        return self.ratings

    def need_pairs(self) -> list[Row]:
        """The pairs; InputError when the run has none."""
        if self.pairs is None:
            raise InputError(
                "this format holds preference pairs and the run has none of its clips; run `halovid pair` first"
            )
        return self.pairs


@dataclass(frozen=True)
class Exported:
    """What an export wrote: how many clips or pairs, and (item, reason) of everything left out."""

    kind: Literal["clips", "pairs"]
    count: int
    skipped: list[tuple[str, str]]


def copy_clips(
    clips: Iterable[RunClip], target: Path, skipped: list[tuple[str, str]], pictures: bool = False
) -> Iterator[Row]:
    """Copies readable clips to target/CLIP_ID.mp4 and yields the row of each; the others are added to `skipped`.

    A yielded row also has `num_frames` and the name of its file as `file`, and its `fps` is that of the file.

    Args:
        pictures: the format takes a picture as it is; others hold it as a video of one frame.
    """
    for clip in clips:
        try:
            file = clip.file()
            info = probe_video(file)
            if not is_plain_name(clip.clip_id):
                raise SourceProblem("its id is no plain name, and would name a file")
        except (SourceProblem, InputError) as error:
            skipped.append((clip.clip_id, str(error)))
            continue
        suffix = file.suffix if pictures else ".mp4"
        name = f"{clip.clip_id}{suffix}"
        if file.suffix == suffix:
            copy_file(file, target / name)
        else:
            convert_video(file, target / name, info.fps)
        yield clip.row | {"num_frames": info.num_frames, "fps": info.fps, "file": name}


def copy_paired(run: RunData, target: Path, skipped: list[tuple[str, str]]) -> dict[str, Row]:
    """Copies the clips that pairs name, from all folders, as `copy_clips` does; returns exported id -> row."""
    ids = _exported_ids(run.need_pairs())
    paired = [
        RunClip(clip.row | {"clip_id": ids[clip.folder.name, clip.clip_id]}, clip.folder)
        for clip in (*run.clips, *run.pair_only)
        if (clip.folder.name, clip.clip_id) in ids
    ]
    return {row["clip_id"]: row for row in copy_clips(paired, target, skipped)}


def _exported_ids(pairs: list[Row]) -> dict[tuple[str, str], str]:
    """(folder, clip id) -> exported id: the same clip id, or FOLDER-ID where paired clips of two folders share it."""
    paired = {(pair[f"{side}_folder"], pair[side]) for pair in pairs for side in _SIDES}
    counts = Counter(clip_id for _, clip_id in paired)
    return {(folder, clip_id): clip_id if counts[clip_id] == 1 else f"{folder}-{clip_id}" for folder, clip_id in paired}


def usable_pairs(run: RunData, clips: dict[str, Row], skipped: list[tuple[str, str]]) -> list[Row]:
    """The pairs whose clips were both copied; their `chosen` and `rejected` are exported ids."""
    usable = []
    ids = _exported_ids(run.need_pairs())
    for run_pair in run.need_pairs():
        pair = run_pair | {side: ids[run_pair[f"{side}_folder"], run_pair[side]] for side in _SIDES}
        if pair["chosen"] in clips and pair["rejected"] in clips:
            usable.append(pair)
        else:
            skipped.append((f"pair {pair['chosen']}, {pair['rejected']}", "one of its clips is missing or not usable"))
    return usable


def copy_file(source: Path, target: Path) -> None:
    """Copies a file's bytes, atomically."""
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def swapped(pair: Row) -> bool:
    """Whether the rejected clip is written first: a coin fixed by the ids, so that the order tells nothing."""
    return bool(hashlib.sha256(f"{pair['chosen']}/{pair['rejected']}".encode()).digest()[0] & 1)
