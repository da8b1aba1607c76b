"""reward: judged clips -> reward model.

    halovid reward RECIPE.yaml RUN

Reads RUN/generate and RUN/judge. Phase one trains on clip labels; phase two continues the same network on patch
labels and keeps the clip term. Writes RUN/reward: reward.safetensors and reward.json, log.jsonl, and
agreement.parquet (with the judge's labels of prompts that were held out).
"""

from __future__ import annotations

from pathlib import Path

import torch

from halovid.clips import ClipFolder, Row, clip_seed
from halovid.config import RunConfig
from halovid.errors import InputError
from halovid.folders import open_stage
from halovid.judges.base import DEFECT_RATING
from halovid.rewards.agreement import agreement_rows
from halovid.rewards.backbones import BackboneSpec
from halovid.rewards.data import LabelledClips, load_labelled
from halovid.rewards.network import RewardNetwork, RewardSpec, save_reward
from halovid.rewards.training import train_reward
from halovid.runtime import resolve_device, set_threads
from halovid.tables import AGREEMENT, LABELS, read_table, rows_to_table


def run(config: RunConfig, run_dir: Path) -> None:
    """Trains the reward model and measures it on held-out prompts."""
    depends = config.part("seed", "grid", "reward")
    with open_stage(run_dir, "reward", depends, ["generate", "judge"]) as stage:
        if stage is None:
            return
        set_threads(config.threads)
        clips = ClipFolder(run_dir / "generate", config.reward_size)
        labels = read_table(run_dir / "judge" / "labels.parquet", LABELS)
        reward = config.reward
        data, rows = load_labelled(clips, labels, reward.aspects, reward.patch_aspects, config.grid, stage.skip)
        if reward.patch_steps and not data.rated_by_patch:
            raise InputError(
                f"the labels rate no patch, and reward.patch_steps is {reward.patch_steps}: set it to 0 to learn from "
                f"the ratings of clips alone, or have the patches judged"
            )
        held_out = _held_out(rows, reward.held_out, config.seed)
        torch.manual_seed(config.seed)
        network = RewardNetwork(_spec(config, clips, data)).to(resolve_device(config.device))
        train_reward(network, data.subset(~held_out), reward, config.seed, stage.path)
        network.eval()
        save_reward(network, stage.path)
        agreement = agreement_rows(
            network, data.subset(held_out), "dense", config.grid, DEFECT_RATING, config.score.batch_size
        )
        stage.write("agreement.parquet", rows_to_table(agreement, AGREEMENT))


def _held_out(rows: list[Row], share: float, seed: int) -> torch.Tensor:
    """Which clips belong to the held-out prompts: [n] bool, some of both kinds."""
    prompt_ids = sorted({row["prompt_id"] for row in rows}, key=lambda name: clip_seed(seed, name, -1))
    if len(prompt_ids) < 2:
        raise InputError(f"the reward model needs judged clips of at least 2 prompts, found {len(prompt_ids)}")
    out = set(prompt_ids[: max(1, round(len(prompt_ids) * share))])
    return torch.tensor([row["prompt_id"] in out for row in rows])


def _spec(config: RunConfig, clips: ClipFolder, data: LabelledClips) -> RewardSpec:
    """What the network is built from: the config, and the division of time of the generator's latents."""
    reward = config.reward
    frames, height, width = config.reward_size
    if height % reward.patch_size or width % reward.patch_size:
        raise InputError(
            f"reward.patch_size is {reward.patch_size}; it must divide the height {height} and width {width} at which "
            f"the reward model sees clips (generator.height and width over reward.downscale {reward.downscale})"
        )
    backbone = BackboneSpec(
        name=reward.backbone,
        width=reward.width,
        layers=reward.layers,
        heads=reward.heads,
        patch_size=reward.patch_size,
        num_frames=frames,
        frame_height=height,
        frame_width=width,
        temporal_stride=clips.geometry.temporal_stride,
        causal_first_frame=clips.geometry.causal_first_frame,
    )
    return RewardSpec(
        backbone=backbone,
        prompt_width=data.prompts.shape[-1],
        aspects=reward.aspects,
        patch_aspects=reward.patch_aspects,
    )
