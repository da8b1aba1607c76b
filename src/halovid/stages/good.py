"""good: good clips of the prompts, which no model made.

    halovid good RECIPE.yaml RUN

Reads RUN/generate; writes RUN/good, a clip folder. Its clips can be chosen over the candidates (`pair.sources: [good]`)
or over what the model makes of them (`restore.source: good`). Does nothing unless the recipe has a section `good`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from halovid.clips.conditions import write_geometry
from halovid.clips.folder import ClipFolder, write_clips
from halovid.clips.good_clips import GoodClip, find_good_clips, source_identity
from halovid.config.run import RunConfig
from halovid.models import open_model
from halovid.stages import STAGES
from halovid.store.folders import open_stage
from halovid.store.runtime import console, resolve_device
from halovid.store.tables import CLIPS
from halovid.store.work import Row, Skip, Worker


def run(config: RunConfig, run_dir: Path) -> None:
    """Encodes at most `good.per_prompt` good clips of every prompt; what can't be used is listed."""
    settings = config.good
    if settings is None:
        console.print("good: not in the recipe, nothing to do", style="dim")
        return
    depends = config.part("seed", "dtype", "good") | {"source": source_identity(settings)}
    with open_stage(run_dir, "good", depends, STAGES["good"].reads(config)) as stage:
        if stage is None:
            return
        stage.use_threads(config.threads)
        generated = ClipFolder(run_dir / "generate", config.clip_size)
        write_geometry(stage.path, generated.geometry)
        good, skipped = find_good_clips(settings, generated.prompts, config.clip_size, config.seed)
        for item, reason in skipped:
            stage.skip(item, reason)
        work = EncodeGoodClips(config, stage.path)
        stage.write("clips.parquet", stage.map_batches("encode good clips", good, settings.batch_size, work, CLIPS))


@dataclass(frozen=True)
class EncodeGoodClips:
    """Work on good clips: each becomes a clip of the run in `folder`."""

    config: RunConfig
    folder: Path

    def open(self) -> Worker[GoodClip]:
        """See `Work.open`."""
        model, device = open_model(self.config, {"autoencoder"}), resolve_device(self.config.device)
        fps = self.config.generator.fps

        def encode(batch: Sequence[GoodClip], skip: Skip) -> list[Row]:
            latents = model.encode_video(torch.stack([clip.load() for clip in batch]).to(device))
            video = model.decode_video(latents)  # as lossy as the candidates are, so that this tells nothing
            names, prompts = [clip.name for clip in batch], [clip.prompt for clip in batch]
            return write_clips(self.folder, names, prompts, [None] * len(batch), latents, video, fps)

        return encode
