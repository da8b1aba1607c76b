"""score: candidate clips and reward model -> rewards.

    halovid score RECIPE.yaml RUN

Reads RUN/generate and RUN/reward; writes RUN/score/rewards.parquet. A reward is the mean rating over the aspects.
With `score.released` or `score.server` a released reward model takes the place of RUN/reward: every patch is scored as
a crop, and RUN/score/released.parquet tells all its scores and what it was shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from halovid.clips import ClipFolder, Row
from halovid.config import RunConfig
from halovid.folders import StageFolder, open_stage
from halovid.rewards.data import prompt_inputs
from halovid.rewards.network import load_reward
from halovid.rewards.pretrained import model_identity
from halovid.rewards.released import ReleasedReward, UnscoredError, load_released
from halovid.rewards.released.patches import score_clip
from halovid.rewards.released.served import ServedReward
from halovid.rewards.scoring import reward_clips
from halovid.runtime import resolve_device, resolve_dtype, set_threads
from halovid.tables import RELEASED, REWARDS


def run(config: RunConfig, run_dir: Path) -> None:
    """Rewards every candidate and its patches; clips that can't be read or give no finite reward are skipped."""
    released = bool(config.score.released or config.score.server)
    depends = config.part("grid", "score") | {"model": model_identity(config.score.released)}
    with open_stage(run_dir, "score", depends, ["generate"] if released else ["generate", "reward"]) as stage:
        if stage is None:
            return
        set_threads(config.threads)
        if released:
            table = _score_released(stage, config, ClipFolder(run_dir / "generate", config.clip_size))
            stage.write("released.parquet", table)
            table = table.select(REWARDS.names).cast(REWARDS)
        else:
            table = _score(stage, config, ClipFolder(run_dir / "generate", config.reward_size), run_dir / "reward")
        stage.write("rewards.parquet", table)


def _score(stage: StageFolder, config: RunConfig, clips: ClipFolder, folder: Path) -> pa.Table:
    """Rewards by the run's own reward model: the mean ratings."""
    device = resolve_device(config.device)
    network = load_reward(folder).to(device)

    def score(batch: Sequence[Row]) -> list[Row]:
        rows, video = clips.readable(batch, stage.skip)
        if video is None:
            return []
        prompts = prompt_inputs(network.backbone, rows, clips.prompt_embeds)
        rated = reward_clips(network, video.to(device), prompts.to(device), config.grid, config.score.scoring)
        rewards, patches = rated[0].tolist(), rated[1].flatten(1).tolist()
        scored = [
            {"clip_id": row["clip_id"], "prompt_id": row["prompt_id"], "reward": reward, "patch_rewards": own}
            for row, reward, own in zip(rows, rewards, patches, strict=True)
        ]
        return _finite(scored, stage)

    return stage.map_batches("score", clips.rows, config.score.batch_size, score, REWARDS)


def _score_released(stage: StageFolder, config: RunConfig, clips: ClipFolder) -> pa.Table:
    """Rewards by a released model, clip by clip at full size: its overall scores."""
    reward = _released_reward(config)

    def score(batch: Sequence[Row]) -> list[Row]:
        scored = []
        rows, video = clips.readable(batch, stage.skip)
        for row, clip in zip(rows, video if video is not None else (), strict=True):
            try:
                scored.append(score_clip(reward, clip, row, config.grid, clips.geometry))
            except UnscoredError as error:
                stage.skip(row["clip_id"], str(error))
        return _finite(scored, stage)

    return stage.map_batches("score", clips.rows, 1, score, RELEASED)


def _released_reward(config: RunConfig) -> ReleasedReward:
    """The released model that the configuration names, here or behind a server."""
    if config.score.server:
        return ServedReward(config.score.server)
    device = resolve_device(config.device)
    return load_released(str(config.score.released), device, resolve_dtype(config.dtype, device))


def _finite(scored: list[Row], stage: StageFolder) -> list[Row]:
    """The rows whose rewards are all finite; the others are skipped."""
    good = [all(map(math.isfinite, (row["reward"], *row["patch_rewards"]))) for row in scored]
    for row, finite in zip(scored, good, strict=True):
        if not finite:
            stage.skip(row["clip_id"], "the reward is not finite")
    return [row for row, finite in zip(scored, good, strict=True) if finite]
