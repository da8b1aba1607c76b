"""Best-of-N: the try with the highest reward is kept, for each clip by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.measuring import best_of
from halovid.measuring.best_of import BestOf
from halovid.records import Conditioning

TEXTS = Conditioning({"prompt_embeds": torch.zeros(2, 1, 1)})


class SeedSampler:
    """Latents that are their seed."""

    geometry = LatentGeometry(4, 8, causal_first_frame=True)

    def sample(self, conditioning: Conditioning, seeds: list[int]) -> Tensor:
        return torch.tensor(seeds, dtype=torch.float32)[:, None]

    def decode_video(self, latents: Tensor) -> Tensor:
        return latents


def favour(seed: int) -> object:
    """Rewards: clips are the better the nearer their seed is to `seed`, patches the farther."""

    def reward(network: nn.Module, video: Tensor, prompts: Tensor, grid: PatchGrid) -> tuple[Tensor, Tensor]:
        distance = (video[:, 0] - seed).abs()
        return -distance, distance[:, None, None, None].expand(-1, *grid.shape)

    return reward


@pytest.mark.parametrize(("by", "kept"), [("clip", [12.0, 20.0]), ("patch", [10.0, 22.0])])
def test_each_clip_keeps_its_best_try(monkeypatch: pytest.MonkeyPatch, by: str, kept: list[float]) -> None:
    monkeypatch.setattr(best_of, "reward_clips", favour(13))
    sampler = BestOf(SeedSampler(), nn.Identity(), PatchGrid(1, 2, 2), 3, by)
    assert sampler.sample(TEXTS, [10, 20])[:, 0].tolist() == kept


def test_one_try_is_the_sampler_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(best_of, "reward_clips", favour(0))
    sampler = BestOf(SeedSampler(), nn.Identity(), PatchGrid(1, 1, 1), 1, "clip")
    assert sampler.sample(TEXTS, [7, 5])[:, 0].tolist() == [7, 5]
    assert sampler.geometry is SeedSampler.geometry
