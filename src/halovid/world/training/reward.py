"""Trains the packaged video reward model: ratings of whole clips, as people's ratings train such models in the open.

It never sees a rating of a patch. The stage `reward` continues it on patches (`reward.start: world`), as the paper
continues VideoScore.
"""

from __future__ import annotations

from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from halovid.config import RunConfig, make_config
from halovid.generators import Generator
from halovid.judges import make_judge
from halovid.judges.base import DEFECT_RATING, Judgement
from halovid.rewards.agreement import agreement_rows
from halovid.rewards.backbones import make_spec
from halovid.rewards.data import LabelledClips
from halovid.rewards.network import RewardNetwork, RewardSpec, save_reward
from halovid.rewards.training import train_reward
from halovid.world.training.clips import render_training_clip

FIRST_SEED = 40_000_000  # scenes that nothing else uses
NUM_CLIPS = 2400
NUM_STEPS = 1200
_BATCH = 32
_PROMPT_ROWS = 96  # text conditions kept of a caption, longer than any


def train_video_reward(
    generator: Generator, folder: Path, num_clips: int = NUM_CLIPS, steps: int = NUM_STEPS
) -> dict[str, float]:
    """Renders, rates and trains, continuing from a checkpoint under `folder`, and writes the network there.

    Returns:
        Spearman's correlation with the same judge's ratings of clips that were left out, per aspect.
    """
    config = make_config({"seed": 40, "reward": {"video_steps": steps, "patch_steps": 0, "crops": 0}})
    torch.manual_seed(config.seed)
    network = RewardNetwork(_spec(config, generator))
    data = rated_clips(generator, network, config, num_clips)
    out = torch.arange(len(data)) % 10 == 0
    network.start_heads(data.subset(~out).clip_ratings)
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    train_reward(network, data.subset(~out), config.reward, config.seed, folder)
    save_reward(network.eval(), folder)
    found = agreement_rows(network, data.subset(out), "dense", config.grid, DEFECT_RATING, _BATCH)
    return {row["aspect"]: row["spearman"] for row in found if row["scope"] == "clip"}


def _spec(config: RunConfig, generator: Generator) -> RewardSpec:
    """The default reward model of the embedded world."""
    width = generator.encode_prompts([""]).shape[-1]
    fps = config.generator.fps
    backbone = make_spec(config.reward, config.reward_size, generator.geometry, fps, width, "float32")
    return RewardSpec(backbone=backbone, aspects=config.reward.aspects, patch_aspects=config.reward.patch_aspects)


def rated_clips(generator: Generator, network: RewardNetwork, config: RunConfig, count: int) -> LabelledClips:
    """Clips of the training mix, every other one through the autoencoder, with the simulated judge's ratings."""
    judge = make_judge(config.judge, config.grid, config.seed)
    videos: list[Tensor] = []
    prompts: list[Tensor] = []
    ratings: list[list[float]] = []
    for first in track(range(0, count, _BATCH), "rendering and rating clips"):
        seeds = range(FIRST_SEED + first, FIRST_SEED + min(first + _BATCH, count))
        clips, captions = zip(*map(render_training_clip, seeds), strict=True)
        video = torch.stack(clips).float() / 127.5 - 1
        video[::2] = generator.decode_video(generator.encode_video(video[::2]))
        names = [str(seed) for seed in seeds]
        for answer in judge.judge(video, list(captions), names, generator.geometry):
            assert isinstance(answer, Judgement)
            ratings.append([answer.clip[aspect] for aspect in config.reward.aspects])
        videos.append(video.half())
        prompts.append(generator.encode_prompts(list(captions))[:, :_PROMPT_ROWS])
    labels = torch.tensor(ratings)
    unrated = torch.full((count, len(config.reward.patch_aspects), *config.grid.shape), torch.nan)
    return LabelledClips(torch.cat(videos), torch.cat(prompts), torch.arange(count), labels, unrated)
