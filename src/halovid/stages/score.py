"""score: candidate clips and reward model -> rewards.

    halovid score RECIPE.yaml RUN

Reads RUN/reward and the clip folders that pairs are made of: RUN/generate, RUN/good, RUN/restore. For each of these
writes RUN/score/FOLDER/rewards.parquet and, aspect by aspect like a judge's labels, ratings.parquet. A reward is the
mean rating over the aspects.
With `score.released` or `score.server` a released reward model takes the place of RUN/reward: every patch is scored as
a crop, and RUN/score/FOLDER/released.parquet tells all its scores and what it was shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from halovid.clips.folder import ClipFolder, Row
from halovid.config.run import RunConfig
from halovid.judges.base import label_rows
from halovid.maths.grid import LatentGeometry
from halovid.records import Judgement
from halovid.rewards.data import prompt_inputs
from halovid.rewards.network import load_reward
from halovid.rewards.pretrained import model_identity
from halovid.rewards.released import ReleasedReward, UnscoredError, load_released
from halovid.rewards.released.patches import score_clip
from halovid.rewards.released.served import ServedReward, served_identity
from halovid.rewards.scoring import rate_clips
from halovid.stages import STAGES
from halovid.store.folders import StageFolder, open_stage
from halovid.store.runtime import resolve_device, resolve_dtype
from halovid.store.tables import LABELS, RELEASED, REWARDS

# what is kept of a batch: its rewards, and the ratings that they are means of
_RATED = REWARDS.append(pa.field("ratings", pa.list_(pa.struct(list(LABELS)))))


def run(config: RunConfig, run_dir: Path) -> None:
    """Rewards every candidate and its patches; clips that can't be read or give no finite reward are skipped."""
    released = bool(config.score.released or config.score.server)
    depends = config.part("grid", "score") | {"model": model_identity(config.score.released)}
    if config.score.server:
        depends["score"]["server"] = served_identity(config.score.server)
    with open_stage(run_dir, "score", depends, STAGES["score"].reads(config)) as stage:
        if stage is None:
            return
        stage.use_threads(config.threads)
        size = config.clip_size if released else config.reward_size
        folders = {name: ClipFolder(run_dir / name, size) for name in config.scored_folders}
        conditions = ClipFolder(run_dir / "generate", size).prompt_embeds
        rater = _released_rater(stage, config) if released else _rater(config, run_dir / "reward", conditions)
        for name, clips in folders.items():
            score = partial(_score, rater, clips, stage)
            table = stage.map_batches(f"score {name}", clips.rows, rater.batch_size, score, rater.schema)
            if released:
                stage.write(f"{name}/released.parquet", table)
            else:
                ratings = pa.Table.from_struct_array(table["ratings"].combine_chunks().flatten())
                stage.write(f"{name}/ratings.parquet", ratings.cast(LABELS))
            stage.write(f"{name}/rewards.parquet", table.select(REWARDS.names).cast(REWARDS))
        stage.check_outage()


class _Rater(NamedTuple):
    """Rates clips [B, 3, F, H, W] with their rows and the geometry of their folder; rows of `schema`."""

    rate: Callable[[list[Row], Tensor, LatentGeometry], list[Row]]
    batch_size: int
    schema: pa.Schema


def _score(rater: _Rater, clips: ClipFolder, stage: StageFolder, batch: Sequence[Row]) -> list[Row]:
    """The rewards of those clips of a batch that can be read and get finite ones; the others are skipped."""
    rows, video = clips.readable(batch, stage.skip)
    return [] if video is None else _finite(rater.rate(rows, video, clips.geometry), stage)


def _rater(config: RunConfig, folder: Path, conditions: Callable[[str], Tensor]) -> _Rater:
    """The run's own reward model: the mean ratings."""
    device = resolve_device(config.device)
    network = load_reward(folder).to(device)
    aspects, local = network.spec.aspects, network.spec.patch_aspects

    def rate(rows: list[Row], video: Tensor, geometry: LatentGeometry) -> list[Row]:
        prompts = prompt_inputs(network.backbone, rows, conditions)
        rated = rate_clips(network, video.to(device), prompts.to(device), config.grid, config.score.scoring)
        return [
            _reward_row(row, Judgement(dict(zip(aspects, clip, strict=True)), dict(zip(local, patches, strict=True))))
            for row, clip, patches in zip(rows, rated[0].tolist(), rated[1].float().cpu(), strict=True)
        ]

    return _Rater(rate, config.score.batch_size, _RATED)


def _reward_row(row: Row, rated: Judgement) -> Row:
    """The row of a clip that the reward model has rated like a judge."""
    return {
        "clip_id": row["clip_id"],
        "prompt_id": row["prompt_id"],
        "reward": fmean(rated.clip.values()),
        "patch_rewards": torch.stack(list(rated.patches.values())).mean(0).flatten().tolist(),
        "ratings": label_rows(row["clip_id"], rated, "reward model"),
    }


def _released_rater(stage: StageFolder, config: RunConfig) -> _Rater:
    """A released model, clip by clip at full size: its overall scores."""
    reward = _released_reward(config)

    def rate(rows: list[Row], video: Tensor, geometry: LatentGeometry) -> list[Row]:
        scored = []
        for row, clip in zip(rows, video, strict=True):
            try:
                scored.append(score_clip(reward, clip, row, config.grid, geometry))
            except UnscoredError as error:
                stage.skip(row["clip_id"], str(error), error.again)
        return scored

    return _Rater(rate, 1, RELEASED)


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
