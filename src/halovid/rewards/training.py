"""Trains a reward network: first on clip labels, then on patch labels and clip labels together."""

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
    """Trains a network in place: `video_steps` on clip labels, then `patch_steps` on patch and clip labels.

    It continues from the checkpoint where there is one.

    Args:
        folder: that of the stage; receives log.jsonl and the checkpoint.

    Raises:
        TrainingError: the loss is not finite.
    """
    make_optimizer = AdamW if network.backbone.pretrained else MuonAdamW
    optimizer = make_optimizer(network, config.learning_rate, weight_decay=0.05)
    checkpointed = {"network": _StoredNetwork(network), "optimizer": optimizer}
    training = ResumableTraining(folder / "parts" / "training.safetensors", checkpointed, folder / "log.jsonl")
    network.train()
    if config.gradient_checkpointing:
        network.backbone.checkpoint_gradients()
    for step in training.steps(config.video_steps + config.patch_steps, CHECKPOINT_EVERY, "reward"):
        if step == config.video_steps:
            network.start_patch_head()
        generator = torch.Generator().manual_seed(step_seed(seed, 1_000_003, step))
        batch = data.subset(torch.randint(len(data), (config.batch_size,), generator=generator))
        if network.backbone.sees_pixels:  # what a denoiser knows of a mirrored clip is not the mirror of what it knew
            batch = batch.mirrored(config.mirror, generator)
        terms = _loss_terms(network, batch, config, step >= config.video_steps, generator)
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            raise TrainingError(f"the reward loss became {loss.item()} at step {step}; lower reward.learning_rate")
        optimizer.set_rate(config.learning_rate * _schedule(step, config))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % _LOG_EVERY == 0:
            training.record({name: term.item() for name, term in terms.items()})
    if not config.patch_steps:  # the patch head has not been trained: it rates patches as the video head rates clips
        network.start_patch_head()
    if config.loss == "bradley_terry":
        _calibrate(network, data, config.batch_size)


class _StoredNetwork:
    """A reward network for a checkpoint: without pretrained weights that are frozen under LoRA adapters."""

    def __init__(self, network: RewardNetwork) -> None:
        self._network = network

    def state_dict(self) -> dict[str, Any]:
        """The tensors of `RewardNetwork.stored_state`."""
        return self._network.stored_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._network.load_stored(state_dict)


def _loss_terms(
    network: RewardNetwork, batch: LabelledClips, config: RewardConfig, patch_phase: bool, generator: torch.Generator
) -> dict[str, Tensor]:
    """The terms of the loss, scalars: "video" on clip labels; in the patch phase also "patch" and perhaps "crop".

    The crop term has the video head rate some patches that are cropped and enlarged to clips.
    """
    device = network.shift.device
    video, prompts = batch.inputs(device)
    features = network.features(video, prompts)
    loss = functools.partial(_loss, network, config, generator)
    all_aspects = range(len(network.spec.aspects))
    video_term = loss(network.score_videos(features), batch.clip_ratings.to(device), all_aspects)
    if not patch_phase:
        return {"video": video_term}
    labels = batch.patch_ratings.to(device)
    grid = PatchGrid(*labels.shape[2:])
    scores = network.score_patches(features, grid)
    terms = {
        "video": config.video_weight * video_term,
        "patch": loss(_row_per_patch(scores), _row_per_patch(labels), network.patch_rows),
    }
    if config.crops and network.backbone.sees_pixels:
        clips = torch.randint(len(batch), (config.crops,), generator=generator)
        patches = torch.randint(grid.num_patches, (config.crops,), generator=generator)
        crops = torch.stack(
            [
                crop_patches(video[clip], grid, geometry_of(network), only=int(patch))[0]
                for clip, patch in zip(clips, patches, strict=True)
            ]
        )
        crop_scores = network.score_videos(network.features(crops, prompts[clips]))[:, network.patch_rows]
        terms["crop"] = loss(crop_scores, labels.flatten(2)[clips, :, patches], network.patch_rows)
    return terms


def _row_per_patch(values: Tensor) -> Tensor:
    """[B, aspects, t, h, w] -> [B * t * h * w, aspects]."""
    return values.movedim(1, -1).flatten(0, -2)


def _loss(
    network: RewardNetwork,
    config: RewardConfig,
    generator: torch.Generator,
    scores: Tensor,
    labels: Tensor,
    rows: Sequence[int],
) -> Tensor:
    """The loss that the recipe names, a scalar.

    Args:
        scores, labels: [N, k], of N clips or patches in k aspects; labels are on the judge's scale.
        rows: indices of the k aspects in those of the network.
    """
    if config.loss == "regression":
        return regression_loss(network.shift[rows] + network.scale[rows] * scores, labels)
    first, second = draw_pairs(len(scores), config.partners, generator)
    return bradley_terry_loss(scores[first] - scores[second], labels[first] - labels[second], config.tie)


@torch.no_grad()
def _calibrate(network: RewardNetwork, data: LabelledClips, batch_size: int) -> None:
    """Sets shift and scale so that, aspect by aspect, ratings of clips have mean and deviation of their labels.

    The Bradley-Terry loss compares scores only and leaves their scale open. Patches have the same shift and scale.
    """
    network.eval()
    device = network.shift.device
    batches = [data.subset(rows) for rows in torch.arange(len(data)).split(batch_size)]
    scores = torch.cat([network.score_videos(network.features(*batch.inputs(device))).cpu() for batch in batches])
    labels = data.clip_ratings
    scale = labels.std(0) / scores.std(0).clamp(min=1e-6)
    network.scale.copy_(scale)
    network.shift.copy_(labels.mean(0) - scale * scores.mean(0))


def _schedule(step: int, config: RewardConfig) -> float:
    """The learning rate as a share of its peak: 20 steps of warm-up, then a cosine to a twentieth, in each phase."""
    in_patch_phase = step >= config.video_steps
    step_in_phase = step - config.video_steps if in_patch_phase else step
    phase_length = config.patch_steps if in_patch_phase else config.video_steps
    cosine = 0.5 * (1 + math.cos(math.pi * step_in_phase / max(phase_length, 1)))
    return min((step_in_phase + 1) / 20, 0.05 + 0.95 * cosine)
