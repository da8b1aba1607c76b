"""Makes a run of another project's data set, and writes a run in another project's format.

    halovid import FORMAT SOURCE RUN [--recipe RECIPE.yaml]
    halovid export FORMAT RUN TARGET

An import writes RUN/generate: a clip folder (`halovid.clips.folder`), and sources.parquet with the name of each clip in
its data set. If the data set has ratings it writes RUN/judge too, and if it has preferences RUN/pair. These folders are
ordinary stages: skipped while nothing has changed, continued after a kill.
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
from halovid.formats.base import Collection, Exported, Preference, RunClip, RunData, SourceClip, copy_file
from halovid.formats.sources import PICTURE_SUFFIXES
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
from halovid.store.video import (
    PICTURE_SUFFIX,
    convert_video,
    probe_video,
    read_pictures,
    write_picture,
    write_pictures,
)
from halovid.store.work import Row, Skip, Worker

_BATCH_SIZE = 8
_IMPORTED_STAGES = ("generate", "judge", "pair")  # the stages that an import can write
_PAIR_ONLY = ("good", "repair", "restore")  # the stages whose clips are exported only if a pair names them
# of clips that no generator encodes: one latent frame per frame, one latent cell per pixel
_PIXEL_GEOMETRY = LatentGeometry(temporal_stride=1, spatial_stride=1, causal_first_frame=False)


def import_run(name: str, source: Path, run_dir: Path, config: RunConfig | None) -> None:
    """Writes the stages of a run from a data set; what can't be used is listed in their manifests.

    Args:
        name: the format of the data set, a key of `halovid.formats.FORMATS`.
        source: the folder or table of the data set.
        config: gives the generator that encodes the prompts and the grid of the patch margins, which the stages from
            `reward` on need; without it the clips can be judged, labelled, scored and exported.

    Raises:
        InputError: the source can't be read, holds no usable clip, or lies in a folder that the import writes.
    """
    collection = _read_source(name, source, run_dir)
    source_id = f"{name}-{_content_hash(collection)[:12]}"
    with open_stage(run_dir, "generate", _clip_dependencies(source_id, config)) as stage:
        if stage is not None:
            _import_clips(stage, collection, config)
    clips = read_table(run_dir / "generate" / "clips.parquet", CLIPS).to_pylist()
    sources = read_table(run_dir / "generate" / "sources.parquet", SOURCES).to_pylist()
    ids = {row["source"]: row["clip_id"] for row in sources}
    labels = _label_rows(collection, ids, judge=source_id)
    if labels:
        with open_stage(run_dir, "judge", {"imported": source_id}, ["generate"]) as stage:
            if stage is not None:
                stage.write("labels.parquet", rows_to_table(labels, LABELS))
    num_pairs = _import_pairs(run_dir, collection, clips, ids, source_id, config) if collection.preferences else 0
    rated = len({label["clip_id"] for label in labels})
    prompts = len({row["prompt_id"] for row in clips})
    console.print(f"{len(clips)} clips of {prompts} prompts in {run_dir}; {rated} with ratings, {num_pairs} pairs")


def _read_source(name: str, source: Path, run_dir: Path) -> Collection:
    """The data set in a format; InputError when it can't be read, is empty or lies where the import writes."""
    overlapping = [run_dir / stage for stage in _IMPORTED_STAGES if _lies_in(source, run_dir / stage)]
    if overlapping:
        raise InputError(f"{source} lies in {overlapping[0]}, which the import writes; name another run folder")
    try:
        collection = get_format(name).read(source)
    except OSError as error:
        raise InputError(f"can't read {source}: {error.strerror or error}") from error
    if not collection.clips:
        reasons = "; ".join(f"{item}: {reason}" for item, reason in collection.skipped[:3])
        raise InputError(f"{source} holds no usable clip of format {name!r} ({reasons or 'it is empty'})")
    return collection


def _lies_in(source: Path, folder: Path) -> bool:
    """Whether `source` is `folder` or lies below it."""
    return source.resolve().is_relative_to(folder.resolve())


def _content_hash(collection: Collection) -> str:
    """A hash of everything that is imported, including the bytes of the clips."""
    clips = []
    with progress("read", len(collection.clips)) as advance:
        for clip in collection.clips.values():
            files = [hash_file(path) for path in clip.files]
            clips.append([clip.name, clip.prompt, files, clip.fps, clip.ratings])
            advance()
    preferences = [dataclasses.astuple(preference) for preference in collection.preferences]
    return hash_value([clips, preferences, collection.skipped])


def _clip_dependencies(source_id: str, config: RunConfig | None) -> dict[str, Any]:
    """What imported clips depend on: the data set, and with a recipe the generator that encodes their prompts."""
    if config is None:
        return {"imported": source_id}
    return {"imported": source_id, "model": model_identity(config.generator)} | config.part("dtype", "generator")


def _import_clips(stage: StageFolder, collection: Collection, config: RunConfig | None) -> None:
    """Writes RUN/generate: the clips, and with a recipe the encoded prompts; InputError when no clip can be read."""
    for item, reason in collection.skipped:
        stage.skip(item, reason)
    ids = collection.clip_ids()
    prompt_ids: dict[str, str] = {}
    for clip in collection.clips.values():
        prompt_ids.setdefault(clip.prompt, f"p{len(prompt_ids):05d}")
    if config is None:
        write_geometry(stage.path, _PIXEL_GEOMETRY)
    else:
        stage.use_threads(config.threads)
        encode_conditions(stage.path, [Prompt(name, text) for text, name in prompt_ids.items()], config)

    work = ImportClips(stage.path, ids, prompt_ids)
    columns = CLIPS.append(SOURCES.field("source"))
    table = stage.map_batches("import", list(collection.clips.values()), _BATCH_SIZE, work, columns)
    if not len(table):
        last_skipped = stage.skipped[-1]
        raise InputError(
            f"none of {len(collection.clips)} clips can be read ({last_skipped['item']}: {last_skipped['reason']})"
        )
    stage.write("sources.parquet", table.select(SOURCES.names).cast(SOURCES))
    stage.write("clips.parquet", table.select(CLIPS.names).cast(CLIPS))


@dataclass(frozen=True)
class ImportClips:
    """Work on clips of a data set: each is written to a file in `folder`.

    clip_ids: clip name in the data set -> clip id in the run. prompt_ids: prompt -> prompt id in the run.
    """

    folder: Path
    clip_ids: dict[str, str]
    prompt_ids: dict[str, str]

    def open(self) -> Worker[SourceClip]:
        """See `Work.open`."""
        return self._store_batch

    def _store_batch(self, batch: Sequence[SourceClip], skip: Skip) -> list[Row]:
        """Stores the clips of a batch and returns the rows of those that can be read; `skip` gets the others."""
        rows = []
        for clip in batch:
            try:
                row = _store_clip(clip, self.folder, self.clip_ids[clip.name])
                rows.append(row | {"prompt_id": self.prompt_ids[clip.prompt], "source": clip.name})
            except InputError as error:
                skip(clip.name, str(error))
        return rows


def _store_clip(clip: SourceClip, folder: Path, clip_id: str) -> Row:
    """Writes a clip as mp4, or as png if it is a picture, and returns its row; InputError if it can't be read.

    A file that is one of these already is copied.
    """
    is_picture = clip.fps is None and clip.files[0].suffix.lower() in PICTURE_SUFFIXES
    suffix = PICTURE_SUFFIX if is_picture else ".mp4"
    video = f"clips/{clip_id}{suffix}"
    if clip.fps is not None:
        fps = clip.fps
        write_pictures(folder / video, (_picture(path) for path in clip.files), fps)
    else:
        fps = probe_video(clip.files[0]).fps
        if clip.files[0].suffix.lower() == suffix:
            copy_file(clip.files[0], folder / video)
        elif is_picture:
            write_picture(folder / video, _picture(clip.files[0]))
        else:
            convert_video(clip.files[0], folder / video, fps)
    files = {"video": video, "video_sha256": hash_file(folder / video), "latents": None, "latents_sha256": None}
    return {"clip_id": clip_id, "prompt": clip.prompt, "seed": None, "fps": fps} | files


def _picture(path: Path) -> np.ndarray:
    """The picture in a file; the first one where there are several, as in a GIF."""
    with contextlib.closing(read_pictures(path)) as pictures:
        for picture in pictures:
            return picture
    raise InputError(f"{path} holds no picture")


def _label_rows(collection: Collection, ids: dict[str, str], judge: str) -> list[Row]:
    """Rows of tables.LABELS for the clips that were imported; patches have no ratings."""
    return [
        {"clip_id": ids[clip.name], "aspect": aspect, "score": score, "patch_scores": None, "judge": judge}
        for clip in collection.clips.values()
        if clip.name in ids
        for aspect, score in clip.ratings.items()
    ]


def _import_pairs(
    run_dir: Path,
    collection: Collection,
    clips: list[Row],
    ids: dict[str, str],
    source_id: str,
    config: RunConfig | None,
) -> int:
    """Writes RUN/pair and returns the number of pairs. Patches were not compared, so all patch margins are 0: ties."""
    grid = (config or RunConfig()).margin_grid
    prompt_ids = {row["clip_id"]: row["prompt_id"] for row in clips}
    usable: list[Preference] = []
    unreadable: list[Preference] = []
    for preference in collection.preferences:
        both_imported = {preference.chosen, preference.rejected} <= ids.keys()
        (usable if both_imported else unreadable).append(preference)
    if not usable:
        raise InputError(f"none of {len(collection.preferences)} pairs has two clips that can be read")
    rows = [
        {
            "prompt_id": prompt_ids[ids[preference.chosen]],
            "chosen": ids[preference.chosen],
            "chosen_folder": "generate",
            "rejected": ids[preference.rejected],
            "rejected_folder": "generate",
            "clip_margin": preference.margin,
            "patch_margins": [0.0] * grid.num_patches,
            "weight": 1.0,
        }
        for preference in usable
    ]
    depends = {"imported": source_id, "grid": grid.shape}
    with open_stage(run_dir, "pair", depends, ["generate"]) as stage:
        if stage is not None:
            for preference in unreadable:
                stage.skip(f"pair {preference.chosen}, {preference.rejected}", "a clip of it can't be read")
            stage.write("pairs.parquet", rows_to_table(rows, PAIRS))
    return len(rows)


def export_run(name: str, run_dir: Path, target: Path) -> None:
    """Writes a run's clips, and its ratings and pairs as far as the format holds them, to a new folder.

    A failed export leaves no folder behind.

    Raises:
        InputError: the run lacks the ratings or pairs of the format, no item can be exported, or `target` is not empty.
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
                raise InputError(_nothing_exported_message(name, run_dir, exported))
            unfinished.replace(target)
    except OSError as error:
        raise InputError(f"can't export {run_dir} to {target}: {error.strerror or error}") from error
    summary = (
        f"{exported.count} {exported.kind} of {run_dir} exported to {target}; {len(exported.skipped)} items left out"
    )
    console.print(summary, soft_wrap=True)
    for item, reason in exported.skipped:
        console.print(f"left out: {item}: {reason}", style="yellow", highlight=False, soft_wrap=True)


def _nothing_exported_message(name: str, run_dir: Path, exported: Exported) -> str:
    """The message of an export that has no item, with the first reasons."""
    reasons = "; ".join(f"{item}: {reason}" for item, reason in exported.skipped[:3])
    return f"none of the {exported.kind} of {run_dir} can be exported as {name!r} ({reasons or 'it has none'})"


def _run_data(run_dir: Path) -> RunData:
    """The clips of a run, and its ratings and pairs if they were made from these clips."""
    labels, pairs = run_dir / "judge" / "labels.parquet", run_dir / "pair" / "pairs.parquet"
    labels_current, pairs_current = is_current(run_dir, "judge"), is_current(run_dir, "pair")
    ratings: dict[str, dict[str, float]] = {}
    for row in read_table(labels, LABELS).to_pylist() if labels_current else []:
        if math.isfinite(row["score"]):
            ratings.setdefault(row["clip_id"], {})[row["aspect"]] = row["score"]
    return RunData(
        clips=_read_clips(run_dir / "generate"),
        pair_only=[clip for name in _PAIR_ONLY if is_current(run_dir, name) for clip in _read_clips(run_dir / name)],
        ratings=ratings if labels_current else None,
        pairs=read_table(pairs, PAIRS).to_pylist() if pairs_current else None,
    )


def _read_clips(folder: Path) -> list[RunClip]:
    """The clips of a stage's folder."""
    return [RunClip(row, folder) for row in read_table(folder / "clips.parquet", CLIPS).to_pylist()]
