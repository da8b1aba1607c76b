"""Repair: a clip's defective regions are made anew by the model itself, and kept where the rewards rise.

Nothing but the model and the rewards is needed. Each round brings the regions that are still defective to a noise level
and lets the model denoise them while the rest of the clip is held, as RePaint (arXiv 2201.09865) fills in pictures. Of
every region the best try is kept if its patches' rewards rise, and all that is kept if the clip's rewards rise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from halovid.config.search import RepairOptions
from halovid.maths.noise import seeded_noise
from halovid.maths.seeds import derive_seed
from halovid.models import DiffusionModel
from halovid.models.restoring import remake
from halovid.records import PromptBatch
from halovid.rewards.rewarder import Rewarder
from halovid.search.regions import defective_regions, latent_mask
from halovid.search.rewarding import comparable_rewards


@dataclass(frozen=True)
class RewardedClips:
    """B clips as a search knows them: latents [B, C, T, h, w], reward [B], patch_rewards [B, t, h, w].

    Both rewards are NaN for a clip that the rewarder refuses.
    """

    latents: Tensor
    reward: Tensor
    patch_rewards: Tensor

    def rows(self, indices: Sequence[int]) -> RewardedClips:
        """The clips of these indices."""
        chosen = list(indices)
        return RewardedClips(self.latents[chosen], self.reward[chosen], self.patch_rewards[chosen])

    def better_than(self, other: RewardedClips) -> Tensor:
        """Whether each clip has both a higher reward and a higher mean reward of its patches: booleans [B]."""
        patch_means, other_means = (clips.patch_rewards.flatten(1).mean(1) for clips in (self, other))
        return (self.reward > other.reward) & (patch_means > other_means)

    def replaced(self, indices: Sequence[int], clips: RewardedClips) -> RewardedClips:
        """These clips, with others in the rows of these indices."""
        rows = torch.tensor(indices, dtype=torch.long)
        return RewardedClips(
            self.latents.index_copy(0, rows.to(self.latents.device), clips.latents),
            self.reward.index_copy(0, rows, clips.reward),
            self.patch_rewards.index_copy(0, rows, clips.patch_rewards),
        )


@dataclass(frozen=True)
class RepairRound:
    """What one round did to one clip.

    clip: its row in the batch.  number: of the round, from 1; 0 is the clip before any repair.
    regions: how many were made anew.  kept: for how many of them a try was better than what was there.
    accepted: whether the clip with the kept regions was better as a whole; otherwise it stayed as it was.
    reward, patch_rewards: of the clip after the round, and of its patches, flattened from [t, h, w].
    denoiser_calls: of all tries of the round.
    """

    clip: int
    number: int
    regions: int
    kept: int
    accepted: bool
    reward: float
    patch_rewards: list[float]
    denoiser_calls: int


class Repair:
    """Repairs clips as the options say; what becomes of a clip depends on its latents, prompt and seed alone."""

    def __init__(self, model: DiffusionModel, rewarder: Rewarder, options: RepairOptions) -> None:
        self._model, self._rewarder, self._options = model, rewarder, options

    def __call__(
        self, latents: Tensor, prompts: PromptBatch, seeds: Sequence[int]
    ) -> tuple[RewardedClips, list[RepairRound]]:
        """The repaired clips of B prompts, and what every round did to every clip.

        A clip without a defective region is left as it is, and so is one that the rewarder refuses.

        Args:
            latents: [B, C, T, h, w].
            seeds: decide the noise of each clip's tries.

        Raises:
            InputError: see `comparable_rewards`.
        """
        clips = self._reward(latents, prompts)
        rounds = [_record(clips, row, 0) for row in range(len(latents))]
        for number in range(1, self._options.rounds + 1):
            regions = {row: self._defective_regions(patches) for row, patches in enumerate(clips.patch_rewards)}
            rows = [row for row, masks in regions.items() if masks]
            if not rows:
                break
            before, round_seeds = clips.rows(rows), [derive_seed(seeds[row], number) for row in rows]
            remade, kept = self._remade(before, [regions[row] for row in rows], prompts.rows(rows), round_seeds)
            better = remade.better_than(before).tolist()
            accepted = [index for index, is_better in enumerate(better) if is_better]
            clips = clips.replaced([rows[index] for index in accepted], remade.rows(accepted))
            calls = self._options.tries * self._options.steps * self._model.calls_per_step
            for index, row in enumerate(rows):
                rounds.append(_record(clips, row, number, len(regions[row]), kept[index], better[index], calls))
        return clips, rounds

    def _reward(self, latents: Tensor, prompts: PromptBatch) -> RewardedClips:
        rewards = comparable_rewards(self._model, self._rewarder, latents, prompts)
        return RewardedClips(latents, rewards.clip, rewards.patches)

    def _defective_regions(self, patch_rewards: Tensor) -> list[Tensor]:
        options = self._options
        return defective_regions(patch_rewards, options.threshold, options.regions, options.dilation)

    def _remade(
        self, clips: RewardedClips, regions: Sequence[Sequence[Tensor]], prompts: PromptBatch, seeds: Sequence[int]
    ) -> tuple[RewardedClips, list[int]]:
        """The clips with the best try of every region that a try made better, and how many such regions each has."""
        shape = clips.latents.shape[2:]
        everywhere = torch.stack([torch.stack(list(masks)).any(0) for masks in regions])
        cells = latent_mask(everywhere, shape).to(clips.latents)
        tries = [
            self._try(clips.latents, cells, prompts, [derive_seed(seed, number) for seed in seeds])
            for number in range(self._options.tries)
        ]
        latents, kept = clips.latents.clone(), [0] * len(regions)
        for row, masks in enumerate(regions):
            for mask in masks:
                gains = [_gain(clips.patch_rewards[row], tried.patch_rewards[row], mask) for tried in tries]
                best = max(range(len(tries)), key=gains.__getitem__)
                if gains[best] >= self._options.min_gain:
                    inside = latent_mask(mask, shape).bool().to(latents.device)
                    latents[row] = torch.where(inside, tries[best].latents[row], latents[row])
                    kept[row] += 1
        return self._reward_composites(latents, clips, tries, prompts), kept

    def _try(self, latents: Tensor, cells: Tensor, prompts: PromptBatch, seeds: Sequence[int]) -> RewardedClips:
        """The clips with these cells made anew."""
        assert prompts.conditioning is not None, "clips are made anew from conditionings"
        noise = seeded_noise(latents.shape[1:], seeds).to(latents)
        conditioning = prompts.conditioning.to(latents.device)
        options = self._options
        remade = remake(self._model, latents, cells, conditioning, noise, sigma=options.sigma, steps=options.steps)
        return self._reward(remade, prompts)

    def _reward_composites(
        self, latents: Tensor, before: RewardedClips, tries: Sequence[RewardedClips], prompts: PromptBatch
    ) -> RewardedClips:
        """The rewards of the latents. What is the clip before the round, or one whole try of it, has its rewards."""
        reward, patch_rewards, new = before.reward.clone(), before.patch_rewards.clone(), []
        for row in range(len(latents)):
            known = next((clips for clips in (before, *tries) if torch.equal(clips.latents[row], latents[row])), None)
            if known is None:
                new.append(row)
            else:
                reward[row], patch_rewards[row] = known.reward[row], known.patch_rewards[row]
        if new:
            rewarded = self._reward(latents[new], prompts.rows(new))
            reward[new], patch_rewards[new] = rewarded.reward, rewarded.patch_rewards
        return RewardedClips(latents, reward, patch_rewards)


def _gain(before: Tensor, after: Tensor, mask: Tensor) -> float:
    """By how much the mean reward of the patches under the mask rises; minus infinity for a clip that was refused."""
    return (after[mask].mean() - before[mask].mean()).nan_to_num(nan=-torch.inf).item()


def _record(
    clips: RewardedClips,
    row: int,
    number: int,
    regions: int = 0,
    kept: int = 0,
    accepted: bool = False,
    denoiser_calls: int = 0,
) -> RepairRound:
    reward, patch_rewards = clips.reward[row].item(), clips.patch_rewards[row].flatten().tolist()
    return RepairRound(row, number, regions, kept, accepted, reward, patch_rewards, denoiser_calls)
