"""Runs from data of others, and data of others from runs.

    halovid import FORMAT SOURCE RUN [--recipe RECIPE.yaml]
    halovid export FORMAT RUN TARGET

An import makes RUN/generate: a clip folder (`halovid.clips.folder`), and sources.parquet, which tells what each clip
was called. With ratings it makes RUN/judge too, with preferences RUN/pair. They are stages like others: complete,
skipped when nothing changed, continued after a kill.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from halovid.clips.conditions import encode_conditions, write_geometry
from halovid.config.run import RunConfig
from halovid.formats import get_format
from halovid.formats.base import Collection, Exported, RunClip, RunData, SourceClip, copy_file
from halovid.maths.grid import LatentGeometry
from halovid.models import model_identity
from halovid.records import Prompt
from halovid.store.errors import InputError
from halovid.store.files import hash_file, hash_value
from halovid.store.folders import StageFolder, open_stage
from halovid.store.manifests import is_current
from halovid.store.runtime import console, progress
from halovid.store.scratch import scratch_folder
from halovid.store.tables import CLIPS, LABELS, PAIRS, SOURCES, read_table, rows_to_table
from halovid.store.video import convert_video, probe_video, read_pictures, write_pictures
from halovid.store.work import Row, Skip, Worker

_BATCH = 8
_MADE = ("generate", "judge", "pair")  # the stages that an import makes
_PAIR_ONLY = ("good", "restore")  # the stages whose clips are exported only if a pair names them
_PLAIN = LatentGeometry(temporal_stride=1, spatial_stride=1, causal_first_frame=False)  # every frame counts alike


def import_run(name: str, source: Path, run_dir: Path, config: RunConfig | None) -> None:
    """Makes the stages of a run from a source; what can't be used is listed in their manifests.

    Args:
        config: encodes the prompts with its generator and lays out the patch margins on its grid, which the stages
            from `reward` on need; without one the clips can be judged, labelled, scored and exported.

    Raises:
        InputError: the source can't be read or holds no usable clip.
    """
    inside = next((own for own in _MADE if _lies_in(source, run_dir / own)), None)
    if inside is not None:
        raise InputError(f"{source} lies in {run_dir / inside}, which the import writes; name another run folder")
    try:
        found = get_format(name).read(source)
    except OSError as error:
        raise InputError(f"can't read {source}: {error.strerror or error}") from error
    if not found.clips:
        reasons = "; ".join(f"{item}: {reason}" for item, reason in found.skipped[:3])
        raise InputError(f"{source} holds no usable clip of format {name!r} ({reasons or 'it is empty'})")
    imported = f"{name}-{_identity(found)[:12]}"
    with open_stage(run_dir, "generate", _depends(imported, config)) as stage:
        if stage is not None:
            _import_clips(stage, found, config)
    clips = read_table(run_dir / "generate" / "clips.parquet", CLIPS).to_pylist()
    names = read_table(run_dir / "generate" / "sources.parquet", SOURCES).to_pylist()
    ids = {row["source"]: row["clip_id"] for row in names}
    labels = _labels(found, ids, imported)
    if labels:
        with open_stage(run_dir, "judge", {"imported": imported}, ["generate"]) as stage:
            if stage is not None:
                stage.write("labels.parquet", rows_to_table(labels, LABELS))
    num_pairs = _import_pairs(run_dir, found, clips, ids, imported, config) if found.preferences else 0
    rated = len({label["clip_id"] for label in labels})
    prompts = len({row["prompt_id"] for row in clips})
    console.print(f"{len(clips)} clips of {prompts} prompts in {run_dir}; {rated} with ratings, {num_pairs} pairs")


def _lies_in(source: Path, folder: Path) -> bool:
    """Whether a source is a folder or lies below it."""
    return source.resolve().is_relative_to(folder.resolve())


def _identity(found: Collection) -> str:
    """A hash of everything that an import takes over, the bytes of the clips included."""
    clips = []
    with progress("read", len(found.clips)) as advance:
        for clip in found.clips.values():
            files = [hash_file(path) for path in clip.files]
            clips.append([clip.name, clip.prompt, files, clip.fps, clip.ratings])
            advance()
    return hash_value([clips, [dataclasses.astuple(own) for own in found.preferences], found.skipped])


def _depends(imported: str, config: RunConfig | None) -> dict[str, Any]:
    """What imported clips depend on: the source, and the generator that reads their prompts, if any."""
    if config is None:
        return {"imported": imported}
    return {"imported": imported, "model": model_identity(config.generator)} | config.part("dtype", "generator")


def _import_clips(stage: StageFolder, found: Collection, config: RunConfig | None) -> None:
    """Writes the clip folder."""
    for item, reason in found.skipped:
        stage.skip(item, reason)
    ids = found.clip_ids()
    prompt_ids: dict[str, str] = {}
    for clip in found.clips.values():
        prompt_ids.setdefault(clip.prompt, f"p{len(prompt_ids):05d}")
    if config is None:
        write_geometry(stage.path, _PLAIN)
    else:
        stage.use_threads(config.threads)
        encode_conditions(stage.path, [Prompt(name, text) for text, name in prompt_ids.items()], config)

    work = ImportClips(stage.path, ids, prompt_ids)
    table = stage.map_batches("import", list(found.clips.values()), _BATCH, work, CLIPS.append(SOURCES.field("source")))
    if not len(table):
        first = stage.skipped[-1]
        raise InputError(f"none of {len(found.clips)} clips can be read ({first['item']}: {first['reason']})")
    stage.write("sources.parquet", table.select(SOURCES.names).cast(SOURCES))
    stage.write("clips.parquet", table.select(CLIPS.names).cast(CLIPS))


@dataclass(frozen=True)
class ImportClips:
    """Work on clips of a source: each becomes a file of `folder`.

    clip_ids: the name of each clip in the run.  prompt_ids: prompt -> its name in the run.
    """

    folder: Path
    clip_ids: dict[str, str]
    prompt_ids: dict[str, str]

    def open(self) -> Worker[SourceClip]:
        """See `Work.open`."""
        return self._take_all

    def _take_all(self, batch: Sequence[SourceClip], skip: Skip) -> list[Row]:
        rows = []
        for clip in batch:
            try:
                row = _take(clip, self.folder, self.clip_ids[clip.name])
                rows.append(row | {"prompt_id": self.prompt_ids[clip.prompt], "source": clip.name})
            except InputError as error:
                skip(clip.name, str(error))
        return rows


def _take(clip: SourceClip, folder: Path, clip_id: str) -> Row:
    """Puts a clip into the folder, an mp4 as it is; its row. InputError when it can't be decoded."""
    name = f"clips/{clip_id}.mp4"
    if clip.fps is not None:
        fps = clip.fps
        write_pictures(folder / name, (_picture(path) for path in clip.files), fps)
    else:
        fps = probe_video(clip.files[0]).fps
        if clip.files[0].suffix.lower() == ".mp4":
            copy_file(clip.files[0], folder / name)
        else:
            convert_video(clip.files[0], folder / name, fps)
    files = {"video": name, "video_sha256": hash_file(folder / name), "latents": None, "latents_sha256": None}
    return {"clip_id": clip_id, "prompt": clip.prompt, "seed": None, "fps": fps} | files


def _picture(path: Path) -> np.ndarray:
    """The picture of a file, or the first of several."""
    with contextlib.closing(read_pictures(path)) as pictures:
        for picture in pictures:
            return picture
    raise InputError(f"{path} holds no picture")


def _labels(found: Collection, ids: dict[str, str], judge: str) -> list[Row]:
    """Rows of tables.LABELS of the clips that are there; nobody rated patches."""
    return [
        {"clip_id": ids[clip.name], "aspect": aspect, "score": score, "patch_scores": None, "judge": judge}
        for clip in found.clips.values()
        if clip.name in ids
        for aspect, score in clip.ratings.items()
    ]


def _import_pairs(
    run_dir: Path, found: Collection, clips: list[Row], ids: dict[str, str], imported: str, config: RunConfig | None
) -> int:
    """Writes RUN/pair; how many pairs there are. Nobody compared patches: their margins are zero, a tie everywhere."""
    grid = (config or RunConfig()).margin_grid
    prompt_ids = {row["clip_id"]: row["prompt_id"] for row in clips}
    lost = [own for own in found.preferences if not {own.chosen, own.rejected} <= ids.keys()]
    usable = [own for own in found.preferences if {own.chosen, own.rejected} <= ids.keys()]
    if not usable:
        raise InputError(f"none of {len(found.preferences)} pairs has two clips that can be read")
    rows = [
        {
            "prompt_id": prompt_ids[ids[own.chosen]],
            "chosen": ids[own.chosen],
            "chosen_folder": "generate",
            "rejected": ids[own.rejected],
            "rejected_folder": "generate",
            "clip_margin": own.margin,
            "patch_margins": [0.0] * grid.num_patches,
            "weight": 1.0,
        }
        for own in usable
    ]
    depends = {"imported": imported, "grid": grid.shape}
    with open_stage(run_dir, "pair", depends, ["generate"]) as stage:
        if stage is not None:
            for own in lost:
                stage.skip(f"pair {own.chosen}, {own.rejected}", "a clip of it can't be read")
            stage.write("pairs.parquet", rows_to_table(rows, PAIRS))
    return len(rows)


def export_run(name: str, run_dir: Path, target: Path) -> None:
    """Writes a run's clips, and what the format holds of its ratings and pairs, as a new folder.

    The folder is whole or absent.

    Raises:
        InputError: the run lacks what the format holds, nothing of it can be exported, or `target` is there already.
    """
    write = get_format(name).write
    try:
        with scratch_folder(target) as unfinished:
            if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
                raise InputError(f"{target} is there already; name a folder that is new or empty")
            run = _run_data(run_dir)
            with console.status(f"export {len(run.clips)} clips"):
                exported = write(run, unfinished)
            if not exported.count:
                raise InputError(_nothing_exported(name, run_dir, exported))
            unfinished.replace(target)
    except OSError as error:
        raise InputError(f"can't export {run_dir} to {target}: {error.strerror or error}") from error
    told = f"{exported.count} {exported.kind} of {run_dir} exported to {target}; {len(exported.skipped)} items left out"
    console.print(told, soft_wrap=True)
    for item, reason in exported.skipped:
        console.print(f"left out: {item}: {reason}", style="yellow", highlight=False, soft_wrap=True)


def _nothing_exported(name: str, run_dir: Path, exported: Exported) -> str:
    """Why an export would be empty."""
    reasons = "; ".join(f"{item}: {reason}" for item, reason in exported.skipped[:3])
    return f"none of the {exported.kind} of {run_dir} can be exported as {name!r} ({reasons or 'it has none'})"


def _run_data(run_dir: Path) -> RunData:
    """What an export takes from a run: ratings and pairs only if they are of the clips that are there now."""
    labels, pairs = run_dir / "judge" / "labels.parquet", run_dir / "pair" / "pairs.parquet"
    rated, paired = is_current(run_dir, "judge"), is_current(run_dir, "pair")
    ratings: dict[str, dict[str, float]] = {}
    for row in read_table(labels, LABELS).to_pylist() if rated else []:
        if math.isfinite(row["score"]):
            ratings.setdefault(row["clip_id"], {})[row["aspect"]] = row["score"]
    return RunData(
        clips=_clips_of(run_dir / "generate"),
        pair_only=[clip for name in _PAIR_ONLY if is_current(run_dir, name) for clip in _clips_of(run_dir / name)],
        ratings=ratings if rated else None,
        pairs=read_table(pairs, PAIRS).to_pylist() if paired else None,
    )


def _clips_of(folder: Path) -> list[RunClip]:
    """The clips of a clip folder."""
    return [RunClip(row, folder) for row in read_table(folder / "clips.parquet", CLIPS).to_pylist()]
