"""What a format gives and takes: clips of a source with their prompts, ratings and preferences."""

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
from halovid.store.video import probe_video

Row = dict[str, Any]
_SIDES = ("chosen", "rejected")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True)
class SourceClip:
    """A clip as a source has it.

    name: unique in its source. files: one video, or its frames in order. fps: of frames; None for a video, which
    has its own. ratings: aspect -> 1..5, as far as the source has any.
    """

    name: str
    prompt: str
    files: tuple[Path, ...]
    fps: float | None = None
    ratings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Preference:
    """Two clips of one prompt, by their names; margin > 0 says how much better the chosen one is."""

    chosen: str
    rejected: str
    margin: float = 1.0


@dataclass
class Collection:
    """All usable clips and preferences of a source, and (item, reason) of what is not usable."""

    clips: dict[str, SourceClip] = field(default_factory=dict)
    preferences: list[Preference] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    _pairs: set[frozenset[str]] = field(default_factory=set)

    def skip(self, item: str, reason: str) -> None:
        """Notes an item that can't be used; names that are no Unicode are written with escapes."""
        self.skipped.append((_printable(item), _printable(reason)))

    def add(self, clip: SourceClip) -> None:
        """Takes a clip; the same one again changes nothing.

        Raises:
            SourceProblem: its prompt can't be used, or another clip has this name.
        """
        if _printable(clip.name) != clip.name:
            raise SourceProblem("its name is no Unicode text")
        problem = prompt_problem(clip.prompt)
        if problem:
            raise SourceProblem(f"the prompt can't be used: {problem}")
        if self.clips.setdefault(clip.name, clip) != clip:
            raise SourceProblem(f"the clip {clip.name!r} is named twice, with another prompt, rating or file")

    def add_file(self, root: Path, path: Path, prompt: str) -> str:
        """Takes the clip that is one file of the source; its name. Raises as `add`."""
        clip = SourceClip(relative_name(root, path), prompt, (path,))
        self.add(clip)
        return clip.name

    def prefer(self, chosen: str, rejected: str, margin: float = 1.0) -> None:
        """Takes a preference between two clips that were added.

        Raises:
            SourceProblem: the clips are one, have two prompts or were paired before.
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
        """Takes a vote on two clips: for the first where sign > 0, for the second where sign < 0.

        Raises:
            SourceProblem: the vote is for neither; or see `prefer`.
        """
        if sign == 0:
            raise SourceProblem("neither clip is preferred, which no pair can hold; its clips are kept")
        self.prefer(*((first, second) if sign > 0 else (second, first)), margin)

    def clip_ids(self) -> dict[str, str]:
        """Name -> clip id: the file's own name where that is plain and no other clip's, else a hash of the name.

        Ids become file names, so they hold ASCII letters, digits, dot, dash and underscore only.
        """
        stems = {name: PurePosixPath(name).stem for name in self.clips}
        counts = Counter(stem.casefold() for stem in stems.values())
        return {
            name: stem if is_plain_name(stem) and counts[stem.casefold()] == 1 else _hashed(name)
            for name, stem in stems.items()
        }


def is_plain_name(text: str) -> bool:
    """Whether a text names a file of its own anywhere: ASCII letters, digits, dot, dash and underscore, at most 80."""
    return _PLAIN_NAME.fullmatch(text) is not None


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _hashed(name: str) -> str:
    return f"clip-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:16]}"


@dataclass(frozen=True)
class RunClip:
    """A row of a clip table, tables.CLIPS, and the folder that its files lie in."""

    row: Row
    folder: Path

    @property
    def clip_id(self) -> str:
        """What the run calls it."""
        return self.row["clip_id"]

    def file(self) -> Path:
        """Its video.

        Raises:
            SourceProblem: it is missing or lies outside the folder.
            DamageError: it is not what was written.
        """
        file = resolve_inside(self.folder, self.row["video"])
        check_file(file, self.row["video_sha256"], self.folder.name)
        return file


@dataclass(frozen=True)
class RunData:
    """What a run holds for an export.

    clips: the candidates. pair_only: clips of other folders, good ones or remade ones, which pairs may name.
    ratings: clip id -> aspect -> 1..5. pairs: rows of tables.PAIRS.
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
    """What an export wrote: the number of its items, clips or pairs, and (item, reason) of what it had to leave out."""

    kind: Literal["clips", "pairs"]
    count: int
    skipped: list[tuple[str, str]]


def copy_clips(clips: Iterable[RunClip], target: Path, skipped: list[tuple[str, str]]) -> Iterator[Row]:
    """Copies the videos to target/CLIP_ID.mp4, and gives the rows of those that can be read, one by one.

    Each row also has `num_frames` and the file's own `fps`.
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
        copy_file(file, target / f"{clip.clip_id}.mp4")
        yield clip.row | {"num_frames": info.num_frames, "fps": info.fps}


def copy_paired(run: RunData, target: Path, skipped: list[tuple[str, str]]) -> dict[str, Row]:
    """Copies the clips that a pair has, of whatever folder, as `copy_clips` does: the id it is exported by -> row."""
    ids = _exported_ids(run.need_pairs())
    paired = [
        RunClip(clip.row | {"clip_id": ids[clip.folder.name, clip.clip_id]}, clip.folder)
        for clip in (*run.clips, *run.pair_only)
        if (clip.folder.name, clip.clip_id) in ids
    ]
    return {row["clip_id"]: row for row in copy_clips(paired, target, skipped)}


def _exported_ids(pairs: list[Row]) -> dict[tuple[str, str], str]:
    """(folder, clip id) -> the id that a paired clip is exported by: its own, unless that is one in two folders."""
    clips = {(pair[f"{side}_folder"], pair[side]) for pair in pairs for side in _SIDES}
    counts = Counter(clip_id for _, clip_id in clips)
    return {(folder, name): name if counts[name] == 1 else f"{folder}-{name}" for folder, name in clips}


def usable_pairs(run: RunData, clips: dict[str, Row], skipped: list[tuple[str, str]]) -> list[Row]:
    """The pairs of which both clips were copied, `chosen` and `rejected` being the ids of the copies."""
    usable = []
    ids = _exported_ids(run.need_pairs())
    for named_pair in run.need_pairs():
        pair = named_pair | {side: ids[named_pair[f"{side}_folder"], named_pair[side]] for side in _SIDES}
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
    """Whether the rejected clip is named first: a coin that is the same each time, so that no side is the better."""
    return bool(hashlib.sha256(f"{pair['chosen']}/{pair['rejected']}".encode()).digest()[0] & 1)
