"""Rollouts: clips that the policy makes while it is trained, rewarded and kept on disk round by round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from halovid.clips.folder import ClipFolder
from halovid.config.align import RolloutConfig
from halovid.config.run import RunConfig
from halovid.maths.grid import pool_cells
from halovid.maths.noise import seeded_noise
from halovid.maths.seeds import derive_seed
from halovid.models.random_sampling import RandomSteps, sample_with_random_steps, sampling_levels
from halovid.records import Conditioning, Prompt, PromptBatch
from halovid.rewards.rewarder import Rewarder, reward_latents
from halovid.store.checkpoint import is_readable, load_tensors, save_tensors
from halovid.store.errors import InputError, TrainingError
from halovid.store.runtime import batches, console
from halovid.store.tables import ROLLOUTS, read_table, rows_to_table, write_table
from halovid.store.work import Row
from halovid.training.batches import batch_indices
from halovid.training.groups import GroupBatch
from halovid.training.parallel import Parallel
from halovid.training.policy import Policy


class Rollouts:
    """Gives the groups of each round: read from disk if an interrupted training has made them, else sampled.

    A round's clips are a function of the seed, its number and the policy's weights at that moment. FOLDER holds
    round-000000.safetensors with the latents, as long as a checkpoint may need them, and round-000000.parquet
    (tables.ROLLOUTS) with what every clip was worth.

    Args:
        clips: a folder that holds the prompts and their conditionings.
        config: `align.rollouts` must be there.
        folder: receives the files.
    """

    def __init__(self, policy: Policy, rewarder: Rewarder, clips: ClipFolder, config: RunConfig, folder: Path) -> None:
        assert config.align.rollouts is not None
        self._policy, self._rewarder, self._clips, self._config = policy, rewarder, clips, config
        self._options: RolloutConfig = config.align.rollouts
        self._prompts, self._folder, self._seed = clips.prompts, folder, config.align_seed
        self._current: tuple[int, GroupBatch] | None = None

    @property
    def prompts_per_round(self) -> int:
        """How many groups a round has."""
        return min(self._options.prompts, len(self._prompts))

    @property
    def denoiser_calls(self) -> int:
        """What a round costs: how many times a clip goes through the network."""
        steps = self._config.generator.num_inference_steps
        return self.prompts_per_round * self._options.clips * steps * self._policy.model.calls_per_step

    def groups(self, number: int, parallel: Parallel) -> GroupBatch:
        """The groups of a round, on the CPU; all processes get all groups.

        Raises:
            TrainingError: no clip of the round got a reward.
        """
        if self._current is None or self._current[0] != number:
            path = self._folder / f"round-{number:06d}.safetensors"
            if parallel.all_true(is_readable(path)):
                groups = GroupBatch.from_tensors(load_tensors(path)[0])
            else:
                groups = self._sample(number, parallel)
                if parallel.rank == 0:
                    self._write_table(number, groups)
                    save_tensors(path, groups.tensors())
                    self._discard(number)
            self._current = number, groups
        return self._current[1]

    def table_rows(self, rounds: int) -> list[Row]:
        """The rows of tables.ROLLOUTS of all rounds."""
        paths = [self._folder / f"round-{number:06d}.parquet" for number in range(rounds)]
        return [row for path in paths for row in read_table(path, ROLLOUTS).to_pylist()]

    def _sample(self, number: int, parallel: Parallel) -> GroupBatch:
        """Samples and rewards the clips of a round; each process makes the groups of its own prompts."""
        prompts = self._prompts_of(number)
        share = parallel.slice(len(prompts))
        prompts = prompts[share.start : share.stop]
        clips = [(prompt, clip) for prompt in prompts for clip in range(self._options.clips)]
        parts = [self._sample_clips(number, part) for part in batches(clips, self._config.generator.batch_size)]
        tensors = {
            name: torch.cat([part[name] for part in parts]).unflatten(0, (len(prompts), self._options.clips))
            for name in parts[0]
        }
        conditioning = self._clips.conditioning([prompt.prompt_id for prompt in prompts]).tensors
        tensors |= {f"conditioning.{name}": value for name, value in conditioning.items()}
        groups = GroupBatch.from_tensors({name: parallel.gather(value) for name, value in tensors.items()})
        if not groups.clip_rewards.isfinite().any():
            raise TrainingError(
                f"no clip of round {number} got a reward, so there is nothing to learn from; `halovid score` tells why"
            )
        return groups

    def _sample_clips(self, number: int, clips: Sequence[tuple[Prompt, int]]) -> dict[str, Tensor]:
        """The tensors of `GroupBatch` for some clips, (prompt, number within its group), with a row for each clip."""
        model, device = self._policy.model, self._policy.model.device
        conditioning = self._clips.conditioning([prompt.prompt_id for prompt, _ in clips])
        seeds = [self._clip_seed(number, prompt, clip) for prompt, clip in clips]
        random: dict[str, Tensor] = {}
        if self._options.random_steps:
            latents, steps = self._sample_with_random_steps(number, clips, conditioning.to(device), seeds)
            random = {f"random_steps.{name}": value.cpu() for name, value in vars(steps).items()}
        else:
            latents = model.sample(conditioning, seeds)
        known = conditioning.to(device) if self._rewarder.needs_conditioning else None
        prompts = [prompt for prompt, _ in clips]
        batch = PromptBatch.of_prompts(prompts, known, self._config.generator.fps, model.geometry)
        rewards = reward_latents(model, self._rewarder, latents, batch)
        patches = pool_cells(rewards.patches, self._config.margin_grid)
        return {"latents": latents.cpu(), "clip_rewards": rewards.clip, "patch_rewards": patches} | random

    def _sample_with_random_steps(
        self, number: int, clips: Sequence[tuple[Prompt, int]], conditioning: Conditioning, seeds: Sequence[int]
    ) -> tuple[Tensor, RandomSteps]:
        options, model = self._options, self._policy.model
        levels = sampling_levels(self._config.generator.num_inference_steps, options.shift)
        random = random_step_numbers(levels, options, derive_seed(self._seed, "random steps", number))
        first = [self._clip_seed(number, prompt, 0 if options.shared_start else clip) for prompt, clip in clips]
        start = seeded_noise(model.latent_shape, first)
        new_noise = [seeded_noise(model.latent_shape, [derive_seed(seed, step) for seed in seeds]) for step in random]
        return sample_with_random_steps(
            model,
            conditioning,
            start.to(model.device),
            torch.stack(new_noise).to(model.device),
            levels,
            random,
            options.fresh,
        )

    def _prompts_of(self, number: int) -> list[Prompt]:
        indices = batch_indices(len(self._prompts), self.prompts_per_round, number, self._seed)
        return [self._prompts[index] for index in indices]

    def _clip_seed(self, number: int, prompt: Prompt, clip: int) -> int:
        return derive_seed(self._seed, "rollout", number, prompt.prompt_id, clip)

    def _write_table(self, number: int, groups: GroupBatch) -> None:
        """Writes what the clips of a round were worth; a refused clip has null."""
        rows = [
            {
                "round": number,
                "prompt_id": prompt.prompt_id,
                "clip": clip,
                "seed": self._clip_seed(number, prompt, clip),
                "reward": None if math.isnan(reward) else reward,
                "patch_rewards": None if math.isnan(reward) else patches,
            }
            for prompt, rewards, patches_of in zip(
                self._prompts_of(number),
                groups.clip_rewards.tolist(),
                groups.patch_rewards.flatten(2).tolist(),
                strict=True,
            )
            for clip, (reward, patches) in enumerate(zip(rewards, patches_of, strict=True))
        ]
        refused = sum(row["reward"] is None for row in rows)
        if refused:
            console.print(f"align: round {number}: {refused} of {len(rows)} clips got no reward", style="yellow")
        write_table(self._folder / f"round-{number:06d}.parquet", rows_to_table(rows, ROLLOUTS))

    def _discard(self, number: int) -> None:
        """Deletes the latents of rounds that no checkpoint can lead back to any more."""
        kept = math.ceil(self._config.align.checkpoint_every / self._options.updates)
        (self._folder / f"round-{number - kept - 1:06d}.safetensors").unlink(missing_ok=True)


def random_step_numbers(levels: Tensor, options: RolloutConfig, seed: int) -> list[int]:
    """The numbers of the random steps of a round: drawn among those that start from an allowed level, ascending.

    Raises:
        InputError: there are fewer such steps.
    """
    allowed = [
        number
        for number, level in enumerate(levels[:-2].tolist())  # the last step reaches the clip, which has no noise
        if options.lowest <= level <= options.highest
    ]
    if len(allowed) < options.random_steps:
        raise InputError(
            f"align.rollouts.random_steps is {options.random_steps}, and {len(allowed)} steps of sampling start from a "
            f"noise level in {options.lowest}..{options.highest}: widen lowest and highest, or raise "
            f"generator.num_inference_steps"
        )
    chosen = torch.randperm(len(allowed), generator=torch.Generator().manual_seed(seed))[: options.random_steps]
    return sorted(allowed[index] for index in chosen.tolist())
