"""Best-of-N: the try with the highest reward is kept, for each clip by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from halovid.maths.grid import LatentGeometry
from halovid.records import Conditioning, PromptBatch, Refusal, Rewards
from halovid.search.best_of import BestOf
from halovid.store.errors import InputError

TEXTS = Conditioning({"prompt_embeds": torch.zeros(2, 1, 1)})
PROMPTS = PromptBatch(("a", "b"), TEXTS, (8.0, 8.0), LatentGeometry(4, 8, causal_first_frame=True))


class SeedSampler:
    """Latents that are their seed."""

    geometry = LatentGeometry(4, 8, causal_first_frame=True)

    def sample(self, conditioning: Conditioning, seeds: list[int]) -> Tensor:
        return torch.tensor(seeds, dtype=torch.float32)[:, None]

    def decode_video(self, latents: Tensor) -> Tensor:
        return latents


class Nearness:
    """Rewards: clips are the better the nearer their seed is to `favourite`, patches the farther.

    refused: seeds of clips that are refused, `again` or for good.
    """

    needs_conditioning = False

    def __init__(self, favourite: int, refused: tuple[int, ...] = (), again: bool = False) -> None:
        self.favourite, self.refused, self.again = favourite, refused, again

    def reward(self, video: Tensor, prompts: PromptBatch) -> Rewards:
        assert prompts.texts == PROMPTS.texts
        distance = (video[:, 0] - self.favourite).abs()
        refusals = tuple(Refusal("down", self.again) if int(seed) in self.refused else None for seed in video[:, 0])
        distance[[refusal is not None for refusal in refusals]] = torch.nan
        return Rewards(-distance, distance[:, None, None, None].expand(-1, 1, 2, 2), refusals)


@pytest.mark.parametrize(("by", "kept"), [("clip", [12.0, 20.0]), ("patch", [10.0, 22.0])])
def test_each_clip_keeps_its_best_try(by: str, kept: list[float]) -> None:
    draw = BestOf(SeedSampler(), Nearness(13), 3, by)
    assert draw(PROMPTS, [10, 20])[:, 0].tolist() == kept


def test_one_try_is_the_sampler_itself() -> None:
    assert BestOf(SeedSampler(), Nearness(0), 1, "clip")(PROMPTS, [7, 5])[:, 0].tolist() == [7, 5]


def test_a_try_that_is_refused_for_good_is_the_worst() -> None:
    draw = BestOf(SeedSampler(), Nearness(13, refused=(12, 20, 21, 22)), 3, "clip")
    assert draw(PROMPTS, [10, 20])[:, 0].tolist() == [11, 20]


def test_a_try_that_could_not_be_rewarded_yet_stops_the_choice() -> None:
    with pytest.raises(InputError, match=r"can't be compared with others: down; run it again"):
        BestOf(SeedSampler(), Nearness(13, refused=(12,), again=True), 3, "clip")(PROMPTS, [10, 20])
