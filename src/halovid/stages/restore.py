"""restore: clips -> twins, the same clips made anew by the base model from a noise level on.

    halovid restore RECIPE.yaml RUN

Reads RUN/generate and, with `restore.source: good`, RUN/good. Adds noise to each clip, or to random regions of it, and
lets the base model remove it: the layout stays, and the model's own defects come in. Writes RUN/restore: a clip folder,
and pairs.parquet, which prefers the original clips inside these regions. Does nothing unless the recipe has a section
`restore`; `pair.sources` says whether and how the clips are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from halovid.clips.conditions import read_negative, write_geometry
from halovid.clips.folder import ClipFolder, write_clips
from halovid.config.run import RunConfig
from halovid.maths.grid import pool_cells
from halovid.maths.noise import seeded_noise
from halovid.maths.seeds import clip_seed
from halovid.models import open_model
from halovid.models.restoring import random_regions, remake
from halovid.records import Prompt
from halovid.stages import STAGES
from halovid.store.folders import open_stage
from halovid.store.runtime import console, resolve_device
from halovid.store.tables import CLIPS, PAIRS, rows_to_table
from halovid.store.work import Row, Skip, Worker


@dataclass(frozen=True)
class Job:
    """A clip to make anew.

    original: its row of the clip table.  index: counts the twins of its prompt.  seed: decides noise and regions.
    """

    original: Row
    index: int
    seed: int

    @property
    def prompt(self) -> Prompt:
        """The prompt of the original, and so of its twin."""
        return Prompt(self.original["prompt_id"], self.original["prompt"])

    @property
    def name(self) -> str:
        """The clip_id of the twin."""
        return f"restored-{self.original['prompt_id']}-{self.index:02d}"


def run(config: RunConfig, run_dir: Path) -> None:
    """Makes `restore.per_prompt` twins for every prompt."""
    settings = config.restore
    if settings is None:
        console.print("restore: not in the recipe, nothing to do", style="dim")
        return
    generator = config.generator
    depends = config.part("seed", "dtype", "restore") | {
        "margin_grid": config.margin_grid.shape,
        "guidance": [generator.guidance_scale, generator.negative_prompt],
    }
    with open_stage(run_dir, "restore", depends, STAGES["restore"].reads(config)) as stage:
        if stage is None:
            return
        stage.use_threads(config.threads)
        originals = ClipFolder(run_dir / settings.originals, config.clip_size)
        write_geometry(stage.path, originals.geometry)
        jobs = list_jobs(originals, settings.per_prompt, config.seed)
        work = RestoreClips(config, run_dir, stage.path)
        stage.write("clips.parquet", stage.map_batches("restore", jobs, settings.batch_size, work, CLIPS))
        shape = originals.geometry.latent_shape(*config.clip_size)
        pairs = [_pair(job, region(job, shape, config), config) for job in jobs]
        stage.write("pairs.parquet", rows_to_table(pairs, PAIRS))


@dataclass(frozen=True)
class RestoreClips:
    """Work on jobs: the base model makes each clip anew, and its twin is written to the clip folder `folder`."""

    config: RunConfig
    run_dir: Path
    folder: Path

    def open(self) -> Worker[Job]:
        """See `Work.open`."""
        config, settings = self.config, self.config.restore
        assert settings is not None
        device = resolve_device(config.device)
        generated, originals = (
            ClipFolder(self.run_dir / name, config.clip_size) for name in ("generate", settings.originals)
        )
        model = open_model(config, {"denoiser", "autoencoder"}, read_negative(generated.folder, config))
        shape = originals.geometry.latent_shape(*config.clip_size)

        def restore_clips(batch: Sequence[Job], skip: Skip) -> list[Row]:
            for job in batch:
                originals.encode_latent(job.original, model, self.folder / "parts" / "latents")
            conditioning = generated.conditioning([job.prompt.prompt_id for job in batch]).to(device)
            latents = torch.stack([originals.latents(job.original) for job in batch]).to(device)
            masks = torch.stack([region(job, shape, config) for job in batch]).to(device)
            noise = seeded_noise(latents.shape[1:], [job.seed for job in batch]).to(latents)
            sigma, steps = settings.sigma, settings.steps
            restored = remake(model, latents, masks, conditioning, noise, sigma=sigma, steps=steps)
            video = model.decode_video(restored)
            clip_ids, prompts, seeds = zip(*((job.name, job.prompt, job.seed) for job in batch), strict=True)
            return write_clips(self.folder, clip_ids, prompts, seeds, restored, video, config.generator.fps)

        return restore_clips


def list_jobs(originals: ClipFolder, per_prompt: int, seed: int) -> list[Job]:
    """`per_prompt` jobs for each prompt, which take its originals in turn."""
    return [
        Job(clips[index % len(clips)], index, clip_seed(seed, prompt_id, index))
        for prompt_id, clips in originals.by_prompt.items()
        for index in range(per_prompt)
    ]


def region(job: Job, shape: Sequence[int], config: RunConfig) -> Tensor:
    """The latent cells that a job makes anew, [T, h, w]: 1 for these, 0 for others; a function of its seed."""
    assert config.restore is not None
    return random_regions((shape[0], shape[1], shape[2]), config.restore, np.random.default_rng([job.seed, 1]))


def _pair(job: Job, restored_cells: Tensor, config: RunConfig) -> Row:
    """A row of tables.PAIRS that prefers the original; a patch's margin is the share of it that was made anew."""
    assert config.restore is not None
    margins = pool_cells(restored_cells, config.margin_grid)
    return {
        "prompt_id": job.prompt.prompt_id,
        "chosen": job.original["clip_id"],
        "chosen_folder": config.restore.originals,
        "rejected": job.name,
        "rejected_folder": "restore",
        "clip_margin": margins.mean().item(),
        "patch_margins": margins.flatten().tolist(),
        "weight": 1.0,
    }
