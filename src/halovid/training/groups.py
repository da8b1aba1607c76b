"""Groups of clips with their rewards, and the errors of policy, behaviour and reference on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from halovid.maths.group_losses import GroupErrors
from halovid.maths.losses import squared_error_map
from halovid.models.random_sampling import RandomSteps, random_step_error
from halovid.records import Conditioning
from halovid.training.objectives.base import GroupNeeds
from halovid.training.policy import Policy
from halovid.training.task import NoisyBatch


@dataclass(frozen=True)
class GroupBatch:
    """B prompts with N clips each.

    latents: [B, N, C, T, h, w].  conditioning: of the prompts, B rows.
    clip_rewards: [B, N].  patch_rewards: [B, N, t, h, w].  Both are NaN for a clip that the rewarder refused.
    random_steps: those of all clips, [B, N, S, ...]; None where sampling was deterministic.
    """

    latents: Tensor
    conditioning: Conditioning
    clip_rewards: Tensor
    patch_rewards: Tensor
    random_steps: RandomSteps | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def rows(self, indices: Tensor | list[int]) -> GroupBatch:
        """The groups of these indices, [n]."""
        return self._each(lambda value: value[indices])

    def to(self, device: torch.device) -> GroupBatch:
        """The groups on another device."""
        return self._each(lambda value: value.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> GroupBatch:
        return self.from_tensors({name: change(value) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, to be saved; the conditioning's with a prefix."""
        steps = self.random_steps
        random = {} if steps is None else {f"random_steps.{name}": value for name, value in vars(steps).items()}
        return {
            "latents": self.latents,
            "clip_rewards": self.clip_rewards,
            "patch_rewards": self.patch_rewards,
            **{f"conditioning.{name}": value for name, value in self.conditioning.tensors.items()},
            **random,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> GroupBatch:
        """The groups that `tensors` took apart."""
        parts: dict[str, dict[str, Tensor]] = {"": {}, "conditioning": {}, "random_steps": {}}
        for name, value in tensors.items():
            part, _, rest = name.rpartition(".")
            parts[part][rest] = value
        steps = RandomSteps(**parts["random_steps"]) if parts["random_steps"] else None
        return cls(**parts[""], conditioning=Conditioning(parts["conditioning"]), random_steps=steps)

    def with_random_step(self, turn: int) -> GroupBatch:
        """The groups with S = 1: one random step of each clip, chosen by taking turns."""
        steps = self.random_steps
        assert steps is not None
        number = turn % steps.level.shape[2]
        return replace(self, random_steps=steps.each(lambda value: value[:, :, number : number + 1]))

    def best_and_worst(self) -> GroupBatch:
        """The groups with N = 2: the clip with the highest reward, and that with the lowest."""
        best = self.clip_rewards.nan_to_num(nan=-torch.inf).argmax(1)
        worst = self.clip_rewards.nan_to_num(nan=torch.inf).argmin(1)
        row, pair = torch.arange(len(self))[:, None], torch.stack([best, worst], dim=1)
        return GroupBatch(
            self.latents[row, pair], self.conditioning, self.clip_rewards[row, pair], self.patch_rewards[row, pair]
        )


def denoising_errors(policy: Policy, batch: NoisyBatch[GroupBatch], needs: GroupNeeds) -> GroupErrors:
    """The errors of denoising the clips, with the noise and the levels of the batch."""
    groups, clips = batch.items, batch.items.latents.shape[1]
    latents, noise, level = (
        groups.latents.flatten(0, 1),
        batch.noise.flatten(0, 1),
        batch.level.repeat_interleave(clips),
    )
    conditioning = _conditioning_of_clips(groups)
    model = policy.model
    noisy, target = model.noise.noisy(latents, noise, level), model.noise.target(latents, noise, level)

    def predict() -> tuple[Tensor, Tensor]:
        output = model.predict(noisy, level, conditioning)
        return squared_error_map(output, target), output

    return _errors(policy, predict, needs, groups.latents.shape)


def random_step_errors(policy: Policy, groups: GroupBatch, fresh: float, needs: GroupNeeds) -> GroupErrors:
    """How improbable the clips' random steps are, [B, N, 1, ...]; see `random_sampling.random_step_error`."""
    steps = groups.random_steps
    assert steps is not None
    flat = steps.each(lambda value: value.flatten(0, 1))
    conditioning = _conditioning_of_clips(groups)

    def predict() -> tuple[Tensor, Tensor]:
        return random_step_error(policy.model, flat, conditioning, fresh)

    return _errors(policy, predict, needs, groups.latents.shape)


def _errors(
    policy: Policy, predict: Callable[[], tuple[Tensor, Tensor]], needs: GroupNeeds, shape: torch.Size
) -> GroupErrors:
    """The maps of `GroupErrors` from `predict`, which gives error map and output of the weights that are in place."""
    error, output = predict()
    behaviour = reference = moved = drift = torch.full_like(error, torch.nan)
    if needs.behaviour:
        with policy.behaviour():
            behaviour, old_output = predict()
        moved = squared_error_map(output, old_output)
    if needs.reference:
        with policy.reference():
            reference, base_output = predict()
        drift = squared_error_map(output, base_output)
    maps = (error, behaviour, reference, moved, drift)
    return GroupErrors(*(value.unflatten(0, shape[:2]) for value in maps))


def _conditioning_of_clips(groups: GroupBatch) -> Conditioning:
    """The conditioning of each clip of each group, [B * N] rows."""
    prompts = torch.arange(len(groups)).repeat_interleave(groups.latents.shape[1])
    return groups.conditioning.rows(prompts)
