"""The clips and pairs of clips of a run that people label, and which patches each frame shows."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch

from halovid.config.run import RunConfig
from halovid.labelling.answers import Mode
from halovid.labelling.assignment import Item, ring_pairs
from halovid.maths.grid import LatentGeometry, PatchGrid, membership, read_geometry
from halovid.store.errors import InputError
from halovid.store.files import hash_value, is_intact
from halovid.store.manifests import read_manifest
from halovid.store.runtime import progress
from halovid.store.tables import CLIPS, read_table
from halovid.store.video import VideoInfo, read_facts

Source = Literal["generate", "evaluate"]
Shape = tuple[int, int, int]
# source -> {prefix of the clip ids: stage that made the clips}
_STAGES: dict[Source, dict[str, str]] = {
    "generate": {"": "generate"},
    "evaluate": {"base/": "baseline", "aligned/": "evaluate"},
}


@dataclass(frozen=True)
class LabelClip:
    """A clip to label. `token` names it to annotators without telling which stage, model or prompt made it."""

    clip_id: str
    prompt_id: str
    prompt: str
    path: Path
    facts: VideoInfo
    geometry: LatentGeometry
    token: str

    @property
    def shape(self) -> Shape:
        """Frames, height and width of the file."""
        return self.facts.num_frames, self.facts.height, self.facts.width


@dataclass(frozen=True)
class Material:
    """Everything in a run that can be labelled.

    clips: by clip id. identity: hash of the fingerprints of the stages that made them. unreadable: clip id -> reason.
    """

    clips: dict[str, LabelClip]
    pairs: list[Item]
    identity: str
    unreadable: dict[str, str]

    @property
    def incomparable(self) -> int:
        """How many clips no other clip of their prompt can be compared with, since all of these have another shape."""
        paired = {name for pair in self.pairs for name in (pair.first, pair.second)}
        clips_of_prompt = Counter(clip.prompt_id for clip in self.clips.values())
        return sum(clips_of_prompt[clip.prompt_id] > 1 for name, clip in self.clips.items() if name not in paired)

    def items(self, mode: Mode) -> list[Item]:
        """The items of a mode: single clips to rate, or pairs to compare."""
        return [Item(clip_id) for clip_id in self.clips] if mode == "rate" else self.pairs


def load_material(run_dir: Path, source: Source, seed: int) -> Material:
    """The clips of finished stages of a run; those that can't be read are in `unreadable`.

    Raises:
        InputError: a stage is not complete, or none of its clips can be read.
    """
    identity = hash_value([_fingerprint(run_dir, name) for name in _STAGES[source].values()])
    clips: dict[str, LabelClip] = {}
    unreadable: dict[str, str] = {}
    for prefix, name in _STAGES[source].items():
        folder = run_dir / name
        geometry = read_geometry(folder)
        rows = read_table(folder / "clips.parquet", CLIPS).to_pylist()
        with progress(f"look at {name}", len(rows)) as advance:
            for row in rows:
                clip_id = prefix + row["clip_id"]
                try:
                    clips[clip_id] = _label_clip(clip_id, row, folder, geometry, identity)
                except InputError as error:
                    unreadable[clip_id] = str(error)
                advance()
    if not clips:
        raise InputError(f"none of the clips in {run_dir / source} can be read")
    return Material(clips, _pairs(clips, source, seed), identity, unreadable)


def judged_grid(run_dir: Path) -> PatchGrid:
    """The patch grid of the run's judge, or the default one if the run is not judged yet."""
    manifest = read_manifest(run_dir / "judge") or {}
    grid = manifest.get("config", {}).get("grid")
    return PatchGrid(**grid) if grid else RunConfig().grid


def patch_frames(clip: LabelClip, grid: PatchGrid) -> dict[str, Any]:
    """Which frames of a clip show which patches.

    Returns:
        frame_to_part: for each frame, the t index of the patches that cover most of it.
        parts: for each t index, the first and the last frame that show any of its patches.
    """
    frames = clip.geometry.frame_membership(clip.facts.num_frames)
    shown = membership(len(frames), grid.t) @ frames
    spans = [torch.nonzero(row > 0)[:, 0] for row in shown]
    return {
        "frame_to_part": shown.argmax(0).tolist(),
        "parts": [[int(span[0]), int(span[-1])] for span in spans],
    }


def _fingerprint(run_dir: Path, stage: str) -> str:
    """Name and fingerprint of a complete stage; InputError if it is not complete."""
    manifest = read_manifest(run_dir / stage)
    if manifest is None:
        raise InputError(f"the stage {stage!r} is not complete in {run_dir}; run `halovid {stage}` first")
    return f"{stage} {manifest['fingerprint']}"


def _label_clip(clip_id: str, row: dict[str, Any], folder: Path, geometry: LatentGeometry, identity: str) -> LabelClip:
    """The clip of a row; InputError when its file lies outside the folder or is no video."""
    video = PurePosixPath(row["video"])
    if video.is_absolute() or ".." in video.parts:
        raise InputError(f"the clip table names the file {row['video']!r}, which is not in its folder")
    path = folder / video
    digest = row["video_sha256"]
    if digest is not None and not is_intact(path, digest):
        raise InputError(f"{path} is missing or not what the stage {folder.name!r} wrote")
    token = hashlib.sha256(f"{identity}/{clip_id}".encode()).hexdigest()[:20]
    return LabelClip(clip_id, row["prompt_id"], row["prompt"], path, read_facts(path), geometry, token)


def _pairs(clips: dict[str, LabelClip], source: Source, seed: int) -> list[Item]:
    """Pairs to compare: base and aligned clip of one draw, or candidates of one prompt.

    Candidates of different shapes are not compared, since patches of one are not seen at the place of the other's.
    """
    if source == "evaluate":
        aligned_clips = [name for name in clips if name.startswith("aligned/")]
        base_and_aligned = [(f"base/{name.removeprefix('aligned/')}", name) for name in aligned_clips]
        return [Item(base, aligned) for base, aligned in base_and_aligned if base in clips]
    by_shape: dict[Shape, dict[str, list[str]]] = {}
    for clip in clips.values():
        by_shape.setdefault(clip.shape, {}).setdefault(clip.prompt_id, []).append(clip.clip_id)
    return [pair for _, prompts in sorted(by_shape.items()) for pair in ring_pairs(prompts, seed)]
