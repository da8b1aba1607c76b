"""repair: candidates -> repaired clips: the best of each prompt, their defective regions made anew by the base model.

    halovid repair RECIPE.yaml RUN

Reads RUN/generate, and RUN/reward unless a released or served model gives the rewards. Rewards the candidates of every
prompt, takes the `repair.per_prompt` best, and repairs these round by round as long as the rewards rise, see
`halovid.search.repair`. Writes RUN/repair: a clip folder, and repairs.parquet with what every round did to every clip.
Does nothing unless the recipe has a section `repair`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from halovid.clips.conditions import read_negative, write_geometry
from halovid.clips.folder import ClipFolder, write_clips
from halovid.config.run import RunConfig
from halovid.maths.seeds import derive_seed
from halovid.models import open_model
from halovid.records import Prompt
from halovid.rewards.rewarder import Rewarder, check_rewarder, open_rewarder, reward_rows, rewarder_identity
from halovid.search.repair import Repair, RepairRound
from halovid.stages import STAGES
from halovid.store.folders import open_stage
from halovid.store.runtime import console, resolve_device
from halovid.store.tables import CLIPS, REPAIRS
from halovid.store.work import Row, Skip, Worker

# The rows that the work returns: a repaired clip, with the rounds that it went through.
_CLIPS_WITH_ROUNDS = CLIPS.append(pa.field("rounds", pa.list_(pa.struct(list(REPAIRS)))))


def check(config: RunConfig) -> None:
    """Raises InputError when the released model is not there, or the served one lacks a package or its question."""
    check_rewarder(config)


def run(config: RunConfig, run_dir: Path) -> None:
    """Repairs the best candidates of every prompt."""
    settings, generator = config.repair, config.generator
    if settings is None:
        console.print("repair: not in the recipe, nothing to do", style="dim")
        return
    depends = config.part("seed", "dtype", "grid", "repair") | {
        "guidance": [generator.guidance_scale, generator.negative_prompt],
        "rewarder": rewarder_identity(config),
    }
    with open_stage(run_dir, "repair", depends, STAGES["repair"].reads(config)) as stage:
        if stage is None:
            return
        stage.use_threads(config.threads)
        candidates = ClipFolder(run_dir / "generate", config.clip_size)
        write_geometry(stage.path, candidates.geometry)
        prompts = list(candidates.by_prompt.values())
        prompts_at_once = max(1, settings.batch_size // settings.per_prompt)
        work = RepairClips(config, run_dir, stage.path)
        repaired = stage.map_batches("repair", prompts, prompts_at_once, work, _CLIPS_WITH_ROUNDS, _rise)
        rounds = pa.Table.from_struct_array(repaired["rounds"].combine_chunks().flatten())
        stage.write("repairs.parquet", rounds.cast(REPAIRS))
        stage.write("clips.parquet", repaired.select(CLIPS.names).cast(CLIPS))
        stage.check_outage()
        if len(repaired):
            console.print(f"repair: {len(repaired)} clips, {_rise(repaired.to_pylist())}", highlight=False)


@dataclass(frozen=True)
class RepairClips:
    """Work on prompts, each given as the rows of its candidates: the best are repaired and written to `folder`."""

    config: RunConfig
    run_dir: Path
    folder: Path

    def open(self) -> Worker[Sequence[Row]]:
        """See `Work.open`."""
        config, settings = self.config, self.config.repair
        assert settings is not None
        device = resolve_device(config.device)
        candidates = ClipFolder(self.run_dir / "generate", config.clip_size)
        model = open_model(config, {"denoiser", "autoencoder"}, read_negative(candidates.folder, config))
        rewarder = open_rewarder(config, self.run_dir)
        repair = Repair(model, rewarder, settings)

        def repair_prompts(batch: Sequence[Sequence[Row]], skip: Skip) -> list[Row]:
            originals = [row for rows in batch for row in _best(rows, candidates, rewarder, settings.per_prompt, skip)]
            if not originals:
                return []
            for row in originals:
                candidates.encode_latent(row, model, self.folder / "parts" / "latents")
            latents = torch.stack([candidates.latents(row) for row in originals]).to(device)
            seeds = [derive_seed(config.seed, "repair", row["clip_id"]) for row in originals]
            clips, rounds = repair(latents, candidates.prompt_batch(originals, conditioned=True), seeds)
            clip_ids = [f"repaired-{row['clip_id']}" for row in originals]
            prompts = [Prompt(row["prompt_id"], row["prompt"]) for row in originals]
            video = model.decode_video(clips.latents)
            written = write_clips(self.folder, clip_ids, prompts, seeds, clips.latents, video, config.generator.fps)
            return [
                clip | {"rounds": [_round_row(clip, original, done) for done in rounds if done.clip == row]}
                for row, (clip, original) in enumerate(zip(written, originals, strict=True))
            ]

        return repair_prompts


def _rise(clips: Sequence[Row]) -> str:
    """What the repair of these clips did to their rewards, and what it cost."""
    if not clips:
        return ""
    before, after = (np.mean([clip["rounds"][index]["reward"] for clip in clips]) for index in (0, -1))
    calls = np.mean([sum(done["denoiser_calls"] for done in clip["rounds"]) for clip in clips])
    return f"reward {before:.3f} -> {after:.3f}, {calls:.0f} denoiser calls a clip"


def _best(rows: Sequence[Row], candidates: ClipFolder, rewarder: Rewarder, count: int, skip: Skip) -> list[Row]:
    """The `count` candidates of a prompt with the highest rewards; those that can't be rewarded are skipped."""
    readable, rewards = reward_rows(rewarder, candidates, rows, candidates, skip)
    if rewards is None:
        return []
    best = rewards.clip.nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True)[:count].tolist()
    return [readable[index] for index in best if rewards.refusals[index] is None]


def _round_row(clip: Row, original: Row, done: RepairRound) -> Row:
    """A row of tables.REPAIRS."""
    return {
        "clip_id": clip["clip_id"],
        "original": original["clip_id"],
        "prompt_id": clip["prompt_id"],
        "round": done.number,
        "regions": done.regions,
        "kept": done.kept,
        "accepted": done.accepted,
        "reward": done.reward,
        "patch_rewards": done.patch_rewards,
        "denoiser_calls": done.denoiser_calls,
    }
