"""Early rejection: the tries that promise most while they are noisy are finished, and the best of those is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from halovid.config.recipes import make_config
from halovid.config.search import RejectOptions
from halovid.maths.grid import LatentGeometry
from halovid.maths.noise import seeded_noise
from halovid.models.random_sampling import sampling_levels
from halovid.records import Conditioning, PromptBatch, Rewards
from halovid.search.draw import draw_with_search
from halovid.search.early_rejection import BestOfPromising
from halovid.store.errors import InputError

SHAPE = (1, 1, 2, 2)
GEOMETRY = LatentGeometry(4, 8, causal_first_frame=True)
PROMPTS = PromptBatch(("a", "b"), Conditioning({"prompt_embeds": torch.zeros(2, 1, 1)}), (8.0, 8.0), GEOMETRY)


class Fading:
    """A sampler that only scales the noise down: a finished clip is a hundredth of the noise that it began with."""

    latent_shape, geometry, device, calls_per_step = SHAPE, GEOMETRY, torch.device("cpu"), 2

    def __init__(self) -> None:
        self.finished = 0

    def denoise(self, noisy: Tensor, conditioning: Conditioning, levels: Tensor) -> Tensor:
        self.finished += int(levels[-1] == 0)
        return noisy * (levels[-1].clamp(min=0.01) / levels[0])

    def decode_video(self, latents: Tensor) -> Tensor:
        return latents


class Brightness:
    """Rewards the mean of the latents; of noisy ones with the other sign if it is `deceived`."""

    needs_conditioning = True

    def __init__(self, deceived: bool = False) -> None:
        self.deceived = deceived

    def reward(self, video: Tensor, prompts: PromptBatch) -> Rewards:
        mean = video.flatten(1).mean(1)
        return Rewards(mean, mean[:, None, None, None], (None,) * len(video))

    def reward_noisy(self, noisy: Tensor, prompts: PromptBatch, level: float) -> Rewards:
        assert 0.3 < level <= 0.5
        return self.reward(-noisy if self.deceived else noisy, prompts)


def means(seeds: list[int]) -> Tensor:
    return seeded_noise(SHAPE, seeds).flatten(1).mean(1)


def draw(rewarder: Brightness, keep: float, count: int = 4) -> tuple[Tensor, Fading, BestOfPromising]:
    model: Any = Fading()
    search = BestOfPromising(model, rewarder, RejectOptions(level=0.5, keep=keep), count, "clip", 10)
    return search(PROMPTS, [10, 20]).flatten(1).mean(1), model, search


@pytest.mark.parametrize("keep", [0.1, 0.5, 1.0])
def test_with_a_rating_that_can_be_trusted_the_best_of_all_is_found(keep: float) -> None:
    best, model, _ = draw(Brightness(), keep)
    expected = torch.stack([means([10, 11, 12, 13]).max(), means([20, 21, 22, 23]).max()]) / 100
    torch.testing.assert_close(best, expected)
    assert model.finished == max(1, round(4 * keep))


def test_of_the_finished_the_best_is_kept_whatever_they_promised() -> None:
    best, _, _ = draw(Brightness(deceived=True), 0.5)
    of_the_darkest = [means([first + k for k in range(4)]).sort().values[:2].max() for first in (10, 20)]
    torch.testing.assert_close(best, torch.stack(of_the_darkest) / 100)


def test_its_cost_is_what_it_runs() -> None:
    levels = sampling_levels(10, 1.0)
    begun = int((levels > 0.5).sum())
    _, _, search = draw(Brightness(), 0.25)
    assert search.denoiser_calls == 2 * (4 * begun + 1 * (10 - begun)) + 4


def test_a_rewarder_of_finished_clips_is_refused() -> None:
    config = make_config({"evaluate": {"best_of": 4, "reject": {}}, "reward": {"backbone": "denoiser"}}).evaluate
    model: Any = Fading()
    with pytest.raises(InputError, match=r"evaluate\.reject needs a reward model with backbone"):
        draw_with_search(model, Brightness(), config, 10)
