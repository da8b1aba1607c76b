"""score: candidate clips and reward model -> rewards.

    halovid score RECIPE.yaml RUN

Reads RUN/generate and RUN/reward; writes RUN/score/rewards.parquet. A reward is the mean rating over the aspects.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from halovid.clips import ClipFolder, Row
from halovid.config import RunConfig
from halovid.folders import open_stage
from halovid.rewards.data import prompt_inputs
from halovid.rewards.network import load_reward
from halovid.rewards.scoring import SCORERS
from halovid.runtime import resolve_device, set_threads
from halovid.tables import REWARDS


def run(config: RunConfig, run_dir: Path) -> None:
    """Rewards every candidate and its patches; clips that can't be read or give no finite reward are skipped."""
    with open_stage(run_dir, "score", config.part("grid", "score"), ["generate", "reward"]) as stage:
        if stage is None:
            return
        set_threads(config.threads)
        device = resolve_device(config.device)
        clips = ClipFolder(run_dir / "generate", config.reward_size)
        network = load_reward(run_dir / "reward").to(device)
        scorer = SCORERS[config.score.scoring]

        def score(batch: Sequence[Row]) -> list[Row]:
            rows, video = clips.readable(batch, stage.skip)
            if video is None:
                return []
            prompts = prompt_inputs(network.backbone, clips, rows)
            with torch.no_grad():
                rated = scorer(network, video.to(device), prompts.to(device), config.grid)
            rewards, patches = rated[0].mean(1).cpu(), rated[1].mean(1).flatten(1).cpu()
            finite = torch.isfinite(rewards) & torch.isfinite(patches).all(1)
            for row, good in zip(rows, finite, strict=True):
                if not good:
                    stage.skip(row["clip_id"], "the reward is not finite")
            return [
                {
                    "clip_id": row["clip_id"],
                    "prompt_id": row["prompt_id"],
                    "reward": reward.item(),
                    "patch_rewards": own.tolist(),
                }
                for row, reward, own, good in zip(rows, rewards, patches, finite, strict=True)
                if good
            ]

        stage.write("rewards.parquet", stage.map_batches("score", clips.rows, config.score.batch_size, score, REWARDS))
