"""Trains a reward network: clip labels first, then patch labels with the clip term kept."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halovid.config.reward import RewardConfig
from halovid.maths.grid import PatchGrid
from halovid.maths.optimizers import AdamW, MuonAdamW
from halovid.maths.reward_losses import bradley_terry_loss, draw_pairs, regression_loss
from halovid.maths.seeds import step_seed
from halovid.rewards.data import LabelledClips
from halovid.rewards.network import RewardNetwork
from halovid.rewards.scoring import crop_patches, geometry_of
from halovid.store.errors import TrainingError
from halovid.store.resumable import ResumableTraining

CHECKPOINT_EVERY = 100
_LOG_EVERY = 10


def train_reward(network: RewardNetwork, data: LabelledClips, config: RewardConfig, seed: int, folder: Path) -> None:
    """Trains a network in place: on the clip labels, then on the patch labels.

    Args:
        folder: of the stage: the training continues from the checkpoint in it, if there is one, and logs to log.jsonl.

    Raises:
        TrainingError: the loss is not finite.
    """
    make_optimizer = AdamW if network.backbone.pretrained else MuonAdamW
    optimizer = make_optimizer(network, config.learning_rate, weight_decay=0.05)
    parts = {"network": _StoredNetwork(network), "optimizer": optimizer}
    training = ResumableTraining(folder / "parts" / "training.safetensors", parts, folder / "log.jsonl")
    network.train()
    if config.gradient_checkpointing:
        network.backbone.checkpoint_gradients()
    for step in training.steps(config.video_steps + config.patch_steps, CHECKPOINT_EVERY, "reward"):
        if step == config.video_steps:
            network.start_patch_head()
        generator = torch.Generator().manual_seed(step_seed(seed, 1_000_003, step))
        batch = data.subset(torch.randint(len(data), (config.batch_size,), generator=generator))
        batch = batch.mirrored(config.mirror, generator)
        terms = _loss_terms(network, batch, config, step >= config.video_steps, generator)
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            raise TrainingError(f"the reward loss became {loss.item()} at step {step}; lower reward.learning_rate")
        optimizer.set_rate(config.learning_rate * _rate_share(step, config))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % _LOG_EVERY == 0:
            training.record({name: term.item() for name, term in terms.items()})
    if not config.patch_steps:  # without a second phase patches are rated as clips are
        network.start_patch_head()
    if config.loss == "bradley_terry":
        _calibrate(network, data, config.batch_size)


class _StoredNetwork:
    """A reward network as a checkpoint holds it: without the pretrained weights that do not change."""

    def __init__(self, network: RewardNetwork) -> None:
        self._network = network

    def state_dict(self) -> dict[str, Any]:
        """What is stored."""
        return self._network.stored_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what was stored."""
        self._network.load_stored(state_dict)


def _loss_terms(
    network: RewardNetwork, batch: LabelledClips, config: RewardConfig, patch_phase: bool, generator: torch.Generator
) -> dict[str, Tensor]:
    """The terms of the loss, scalars: of the clips; in the patch phase of all patches and of some crops too."""
    device = network.shift.device
    video, prompts = batch.inputs(device)
    features = network.features(video, prompts)
    loss = functools.partial(_loss, network, config, generator)
    every = range(len(network.spec.aspects))
    video_term = loss(network.score_videos(features), batch.clip_ratings.to(device), every)
    if not patch_phase:
        return {"video": video_term}
    labels = batch.patch_ratings.to(device)
    grid = PatchGrid(*labels.shape[2:])
    scores = network.score_patches(features, grid)
    terms = {
        "video": config.video_weight * video_term,
        "patch": loss(_as_items(scores), _as_items(labels), network.patch_rows),
    }
    if config.crops:
        clips = torch.randint(len(batch), (config.crops,), generator=generator)
        patches = torch.randint(grid.num_patches, (config.crops,), generator=generator)
        crops = torch.stack(
            [
                crop_patches(video[c], grid, geometry_of(network), only=int(p))[0]
                for c, p in zip(clips, patches, strict=True)
            ]
        )
        scored = network.score_videos(network.features(crops, prompts[clips]))[:, network.patch_rows]
        terms["crop"] = loss(scored, labels.flatten(2)[clips, :, patches], network.patch_rows)
    return terms


def _as_items(patches: Tensor) -> Tensor:
    """[B, aspects, t, h, w] -> [B * t * h * w, aspects]."""
    return patches.movedim(1, -1).flatten(0, -2)


def _loss(
    network: RewardNetwork,
    config: RewardConfig,
    generator: torch.Generator,
    scores: Tensor,
    labels: Tensor,
    rows: Sequence[int],
) -> Tensor:
    """The configured loss, a scalar.

    Args:
        scores, labels: [N, k]; labels are on the judge's scale.
        rows: the k aspects, as indices into those of the network.
    """
    if config.loss == "regression":
        return regression_loss(network.shift[rows] + network.scale[rows] * scores, labels)
    first, second = draw_pairs(len(scores), config.partners, generator)
    return bradley_terry_loss(scores[first] - scores[second], labels[first] - labels[second], config.tie)


@torch.no_grad()
def _calibrate(network: RewardNetwork, data: LabelledClips, batch_size: int) -> None:
    """Sets shift and scale so that the clips' ratings have the mean and the spread of their labels, per aspect.

    Preferences leave the scale of the scores open. The same shift and scale hold for patches.
    """
    network.eval()
    device = network.shift.device
    parts = [data.subset(rows) for rows in torch.arange(len(data)).split(batch_size)]
    scores = torch.cat([network.score_videos(network.features(*part.inputs(device))).cpu() for part in parts])
    labels = data.clip_ratings
    scale = labels.std(0) / scores.std(0).clamp(min=1e-6)
    network.scale.copy_(scale)
    network.shift.copy_(labels.mean(0) - scale * scores.mean(0))


def _rate_share(step: int, config: RewardConfig) -> float:
    """Learning rate as a share of its peak: in each phase 20 steps of warm-up, then a cosine to a twentieth."""
    in_patch_phase = step >= config.video_steps
    done = step - config.video_steps if in_patch_phase else step
    length = config.patch_steps if in_patch_phase else config.video_steps
    cosine = 0.5 * (1 + math.cos(math.pi * done / max(length, 1)))
    return min((done + 1) / 20, 0.05 + 0.95 * cosine)
