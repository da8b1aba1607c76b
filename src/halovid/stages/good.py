"""good: prompts -> good clips of them, which no model made.

    halovid good RECIPE.yaml RUN

Reads RUN/generate and the clips that `good.source` names; writes RUN/good, a clip folder. Its clips can be preferred to
the candidates (`pair.sources: [good]`), or to what the base makes of them (`restore.source: good`). Does nothing unless
the recipe has a section `good`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from halovid.clips.conditions import write_geometry
from halovid.clips.folder import ClipFolder, write_clips
from halovid.clips.good_clips import GoodClip, check_source, find_good_clips, source_identity
from halovid.config.run import RunConfig
from halovid.models import open_model
from halovid.stages import STAGES
from halovid.store.folders import open_stage
from halovid.store.runtime import console, resolve_device
from halovid.store.tables import CLIPS
from halovid.store.work import Row, Skip, Worker


def check(config: RunConfig) -> None:
    """Raises InputError when there is no such source of good clips, or it makes clips of another size."""
    if config.good is not None:
        check_source(config.good, config.clip_size)


def run(config: RunConfig, run_dir: Path) -> None:
    """Encodes at most `good.per_prompt` good clips of every prompt; what can't be used is listed as skipped."""
    settings = config.good
    if settings is None:
        console.print("good: not in the recipe, nothing to do", style="dim")
        return
    depends = config.part("seed", "dtype", "good") | {"source": source_identity(settings, config.clip_size)}
    with open_stage(run_dir, "good", depends, STAGES["good"].reads(config)) as stage:
        if stage is None:
            return
        stage.use_threads(config.threads)
        generated = ClipFolder(run_dir / "generate", config.clip_size)
        write_geometry(stage.path, generated.geometry)
        good_clips, skipped = find_good_clips(settings, generated.prompts, config.clip_size, config.seed)
        for item, reason in skipped:
            stage.skip(item, reason)
        work = EncodeGoodClips(config, stage.path)
        table = stage.map_batches("encode good clips", good_clips, settings.batch_size, work, CLIPS)
        stage.write("clips.parquet", table)


@dataclass(frozen=True)
class EncodeGoodClips:
    """Work on good clips: each is encoded, decoded and written to the clip folder `folder`."""

    config: RunConfig
    folder: Path

    def open(self) -> Worker[GoodClip]:
        """See `Work.open`."""
        model, device = open_model(self.config, {"autoencoder"}), resolve_device(self.config.device)
        fps = self.config.generator.fps

        def encode(batch: Sequence[GoodClip], skip: Skip) -> list[Row]:
            latents = model.encode_video(torch.stack([clip.load() for clip in batch]).to(device))
            video = model.decode_video(latents)  # else the autoencoder's traces would tell candidates from good clips
            clip_ids, prompts = [clip.name for clip in batch], [clip.prompt for clip in batch]
            return write_clips(self.folder, clip_ids, prompts, [None] * len(batch), latents, video, fps)

        return encode
