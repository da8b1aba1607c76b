"""The training clips of the packaged generators: rendered scenes, many of whose sprites are corrupted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from halovid.store.files import atomic_path, write_text
from halovid.world.captions import write_caption
from halovid.world.corruptions import render_corrupted, sample_events
from halovid.world.scenes import sample_scene
from halovid.world_training.plans import Plan

SHARD_SIZE = 500


def render_training_clip(plan: Plan, seed: int) -> tuple[Tensor, str]:
    """The clip of a seed, uint8 [3, F, H, W], and its caption."""
    scene = sample_scene(seed, "train", plan.world)
    rng = np.random.default_rng([seed, 2])
    caption = write_caption(scene.spec, rng)
    video = render_corrupted(scene, sample_events(scene, rng, plan.corruption_rate), rng)
    return ((video + 1) * 127.5).round().clamp(0, 255).to(torch.uint8), caption


def render_shards(plan: Plan, folder: Path, shards: range) -> None:
    """Renders those of `shards` that do not exist yet; shard k holds the clips of the seeds from k * SHARD_SIZE on."""
    for shard in track([k for k in shards if not shard_path(folder, k).exists()], "rendering shards"):
        seeds = range(shard * SHARD_SIZE, (shard + 1) * SHARD_SIZE)
        clips, captions = zip(*(render_training_clip(plan, seed) for seed in seeds), strict=True)
        write_text(caption_path(folder, shard), "\n".join(captions) + "\n")
        with atomic_path(shard_path(folder, shard)) as temporary:
            np.save(temporary, torch.stack(clips).numpy())


def shard_path(folder: Path, shard: int) -> Path:
    """The clips of a shard: uint8 [SHARD_SIZE, 3, F, H, W]."""
    return folder / f"clips-{shard:04d}.npy"


def caption_path(folder: Path, shard: int) -> Path:
    """The captions of a shard, one a line."""
    return folder / f"captions-{shard:04d}.txt"


class Clips:
    """All rendered shards of a folder as one memory-mapped sequence of clips."""

    def __init__(self, folder: Path) -> None:
        self.shards = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("clips-*.npy"))]
        if not self.shards:
            raise ValueError(f"no training clips in {folder}; render them first")

    def __len__(self) -> int:
        return len(self.shards) * SHARD_SIZE

    def batch(self, indices: Tensor, box: tuple[slice, slice, slice] = (slice(None),) * 3) -> Tensor:
        """Some frames, rows and columns of clips, all when left out: video [B, 3, F, H, W] in [-1, 1]."""
        parts = [self.shards[i // SHARD_SIZE][i % SHARD_SIZE, :, *box] for i in indices.tolist()]
        return torch.from_numpy(np.stack(parts)).float() / 127.5 - 1
