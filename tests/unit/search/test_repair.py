"""Repair: clips only ever get better, elsewhere they stay, and nothing but their own seed decides."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from halovid.config.search import RepairOptions
from halovid.maths.grid import LatentGeometry, PatchGrid, pool_cells
from halovid.maths.noise import NoiseProcess
from halovid.records import Conditioning, PromptBatch, Refusal, Rewards
from halovid.search.repair import Repair, RepairRound, RewardedClips
from halovid.store.errors import InputError

GRID = PatchGrid(2, 3, 3)
SHAPE = (2, 2, 6, 6)  # C, T, h, w
SEEDS = [3, 4, 5]


class Restless:
    """A model that makes of noise a clip which the noise decides, in one step or many, and decodes to itself."""

    noise = NoiseProcess("flow")
    calls_per_step = 1

    def __init__(self) -> None:
        self.clips_made = 0

    def predict_guided(self, noisy: Tensor, level: Tensor, conditioning: Conditioning) -> Tensor:
        self.clips_made += len(noisy)
        return noisy - 0.5 * noisy.sin()

    def decode_video(self, latents: Tensor) -> Tensor:
        return latents


class Calm:
    """Rewards of 5 minus the mean size of what it sees; clips of the prompt "refused" are refused."""

    needs_conditioning = False

    def __init__(self, again: bool = False) -> None:
        self.again = again

    def reward(self, video: Tensor, prompts: PromptBatch) -> Rewards:
        size = video.abs().mean(1)
        refusals = tuple(Refusal("no", self.again) if text == "refused" else None for text in prompts.texts)
        refused = torch.tensor([refusal is not None for refusal in refusals])
        clip, patches = 5 - size.mean((1, 2, 3)), 5 - pool_cells(size, GRID)
        clip[refused], patches[refused] = torch.nan, torch.nan
        return Rewards(clip, patches, refusals)


def clips_of(*seeds: int) -> Tensor:
    """Quiet clips, each loud in the patches of one corner."""
    latents = torch.stack([0.1 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    latents[:, :, :, :2, :2] *= 30
    return latents


def prompts_of(*texts: str) -> PromptBatch:
    conditioning = Conditioning({"prompt_embeds": torch.zeros(len(texts), 1, 1)})
    return PromptBatch(texts, conditioning, (8.0,) * len(texts), LatentGeometry(1, 1, causal_first_frame=False))


def repair(latents: Tensor, seeds: list[int], **options: Any) -> tuple[RewardedClips, list[RepairRound], int]:
    """The repaired clips, their rounds, and how many clips the network was called with."""
    settings = RepairOptions(**({"threshold": 4.0, "regions": GRID, "steps": 3} | options))
    model: Any = Restless()
    clips, rounds = Repair(model, Calm(), settings)(latents, prompts_of(*"abc"[: len(seeds)]), seeds)
    return clips, rounds, model.clips_made


def test_clips_get_better_and_stay_as_they_are_outside_their_defects() -> None:
    latents = clips_of(*SEEDS)
    clips, rounds, _ = repair(latents, SEEDS, rounds=6)
    first = {done.clip: done.reward for done in rounds if done.number == 0}
    assert all(clips.reward[clip] > reward for clip, reward in first.items())
    assert torch.equal(clips.latents[..., 2:, :], latents[..., 2:, :])
    assert not torch.equal(clips.latents[..., :2, :2], latents[..., :2, :2])
    assert torch.allclose(clips.reward, Calm().reward(clips.latents, prompts_of(*"abc")).clip)


def test_the_rounds_tell_what_became_of_each_clip() -> None:
    clips, rounds, clips_made = repair(clips_of(*SEEDS), SEEDS, rounds=4, tries=2)
    for clip in range(len(SEEDS)):
        of_clip = [done for done in rounds if done.clip == clip]
        assert [done.number for done in of_clip] == list(range(len(of_clip)))
        assert of_clip[-1].reward == clips.reward[clip].item()
        for before, after in itertools.pairwise(of_clip):
            assert (after.reward > before.reward) if after.accepted else (after.reward == before.reward)
            assert after.kept <= after.regions
    assert sum(done.denoiser_calls for done in rounds) == clips_made


def test_a_clip_does_not_depend_on_the_batch() -> None:
    together, _, _ = repair(clips_of(*SEEDS), SEEDS, tries=2)
    for row, seed in enumerate(SEEDS):
        alone, _, _ = repair(clips_of(seed), [seed], tries=2)
        assert torch.equal(alone.latents[0], together.latents[row])


def test_more_tries_in_a_round_give_no_worse_regions() -> None:
    few, _, _ = repair(clips_of(*SEEDS), SEEDS, rounds=1)
    many, _, _ = repair(clips_of(*SEEDS), SEEDS, rounds=1, tries=8)
    assert bool((many.reward >= few.reward).all()) and bool((many.reward > few.reward).any())


def test_what_is_faultless_costs_nothing() -> None:
    latents = clips_of(*SEEDS)
    clips, rounds, clips_made = repair(latents, SEEDS, threshold=-100.0)
    assert torch.equal(clips.latents, latents) and clips_made == 0 and {done.number for done in rounds} == {0}


def test_a_gain_that_is_too_small_is_not_kept() -> None:
    clips, rounds, _ = repair(clips_of(*SEEDS), SEEDS, min_gain=100.0)
    assert torch.equal(clips.latents, clips_of(*SEEDS)) and not any(done.kept for done in rounds)


def test_a_refused_clip_stays_and_an_outage_is_an_error() -> None:
    model: Any = Restless()
    latents, prompts, options = clips_of(1, 2), prompts_of("a", "refused"), RepairOptions(threshold=4.0, regions=GRID)
    clips, _ = Repair(model, Calm(), options)(latents, prompts, [1, 2])
    assert torch.equal(clips.latents[1], latents[1]) and bool(clips.reward[1].isnan())
    with pytest.raises(InputError, match="can't be compared with others: no; run it again"):
        Repair(model, Calm(again=True), options)(latents, prompts, [1, 2])
