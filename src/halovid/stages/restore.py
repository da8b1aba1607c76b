"""restore: good clips -> preference pairs without a judge.

    halovid restore RECIPE.yaml RUN

Reads RUN/generate. Takes good clips, damages random regions of each by letting the base model make them anew, and
prefers the good clip inside these regions. Writes RUN/restore: a clip folder with both clips of each pair, and
pairs.parquet. Does nothing unless the recipe has a section `restore`; `pair.source` tells whether the pairs are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from halovid.clips import ClipFolder, Row, clip_seed, save_conditions, write_clips
from halovid.config import RunConfig
from halovid.errors import InputError
from halovid.folders import open_stage
from halovid.generators import Generator, open_generator
from halovid.grid import pool_cells
from halovid.prompts import Prompt
from halovid.restoring import random_regions, restore
from halovid.runtime import console, resolve_device, set_threads
from halovid.tables import CLIPS, PAIRS, rows_to_table
from halovid.world.captions import parse_caption
from halovid.world.render import render_scene
from halovid.world.scenes import place_scene

_KINDS = ("good", "restored")  # first parts of the names of a pair's two clips


def run(config: RunConfig, run_dir: Path) -> None:
    """Makes `restore.per_prompt` pairs of every prompt."""
    settings = config.restore
    if settings is None:
        console.print("[dim]restore: not in the recipe, nothing to do[/dim]")
        return
    depends = config.part("seed", "dtype", "grid", "pair", "restore")
    with open_stage(run_dir, "restore", depends, ["generate"]) as stage:
        if stage is None:
            return
        set_threads(config.threads)
        device = resolve_device(config.device)
        generator = open_generator(config)
        candidates = ClipFolder(run_dir / "generate", config.clip_size)
        prompts = {row["prompt_id"]: Prompt(row["prompt_id"], row["prompt"]) for row in candidates.rows}
        save_conditions(stage.path, generator, list(prompts.values()))
        jobs = [(prompt, index) for prompt in prompts.values() for index in range(settings.per_prompt)]

        def make(batch: Sequence[tuple[Prompt, int]]) -> list[Row]:
            prompt_embeds = torch.stack([candidates.prompt_embeds(prompt.prompt_id) for prompt, _ in batch]).to(device)
            good = _good_clips(batch, config, generator, candidates).to(device)
            masks = torch.stack([_region(prompt, index, good.shape[2:], config) for prompt, index in batch]).to(device)
            seeds = [clip_seed(config.seed, prompt.prompt_id, index) for prompt, index in batch]
            noise = torch.stack(
                [torch.randn(good.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
            ).to(good)
            latents = torch.cat([good, restore(generator, good, masks, prompt_embeds, noise, settings)])
            names = [f"{kind}-{prompt.prompt_id}-{index:02d}" for kind in _KINDS for prompt, index in batch]
            owners = [prompt for prompt, _ in batch] * 2
            video = generator.decode_video(latents)
            return write_clips(stage.path, names, owners, seeds * 2, latents, video, config.generator.fps)

        clips = stage.map_batches("restore", jobs, settings.batch_size, make, CLIPS)
        stage.write("clips.parquet", clips)
        shape = candidates.geometry.latent_shape(*config.clip_size)
        pairs = [_pair(prompt, index, _region(prompt, index, shape, config), config) for prompt, index in jobs]
        stage.write("pairs.parquet", rows_to_table(pairs, PAIRS))


def _region(prompt: Prompt, index: int, shape: Sequence[int], config: RunConfig) -> Tensor:
    """The damaged cells of a prompt's index-th pair, [T, h, w]: a function of seed, prompt and index."""
    assert config.restore is not None
    rng = np.random.default_rng([clip_seed(config.seed, prompt.prompt_id, index), 1])
    return random_regions((shape[0], shape[1], shape[2]), config.restore, rng)


def _pair(prompt: Prompt, index: int, region: Tensor, config: RunConfig) -> Row:
    """A row of tables.PAIRS: each patch prefers the good clip as far as it was damaged."""
    good, restored = (f"{kind}-{prompt.prompt_id}-{index:02d}" for kind in _KINDS)
    damaged = pool_cells(region, config.margin_grid)
    return {
        "prompt_id": prompt.prompt_id,
        "chosen": good,
        "rejected": restored,
        "clip_margin": damaged.mean().item(),
        "patch_margins": damaged.flatten().tolist(),
        "weight": 1.0,
    }


def _good_clips(
    batch: Sequence[tuple[Prompt, int]], config: RunConfig, generator: Generator, candidates: ClipFolder
) -> Tensor:
    """Latents of the good clips, [B, C, T, h, w].

    Raises:
        InputError: `restore.source` is "world" and a prompt is no caption of the embedded world.
    """
    assert config.restore is not None
    if config.restore.source == "candidates":
        by_prompt: dict[str, list[Row]] = {}
        for row in candidates.rows:
            by_prompt.setdefault(row["prompt_id"], []).append(row)
        own = [by_prompt[prompt.prompt_id] for prompt, _ in batch]
        return torch.stack(
            [candidates.latents(rows[index % len(rows)]) for rows, (_, index) in zip(own, batch, strict=True)]
        )
    try:
        scenes = [
            place_scene(
                parse_caption(prompt.text),
                np.random.default_rng([clip_seed(config.seed, prompt.prompt_id, index), 2]),
            )
            for prompt, index in batch
        ]
    except ValueError as error:
        raise InputError(f"restore.source is 'world': {error}; set it to candidates") from error
    return generator.encode_video(torch.stack([render_scene(scene) for scene in scenes]))
