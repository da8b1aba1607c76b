"""What every `Rewarder` must do. A new implementation is one entry of IMPLEMENTATIONS."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from halovid.config.recipes import make_config
from halovid.config.reward import RewardConfig, ServerConfig
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.records import Conditioning, PromptBatch, Refusal, Rewards
from halovid.rewards.backbones import make_spec
from halovid.rewards.network import RewardNetwork, RewardSpec, save_reward
from halovid.rewards.released import load_released
from halovid.rewards.released.base import UnscoredError
from halovid.rewards.released.served import ServedReward
from halovid.rewards.rewarder import NetworkRewarder, ReleasedRewarder, Rewarder, open_rewarder, rewarder_identity
from halovid.rewards.scoring import SCORERS
from halovid.store.errors import InputError
from tiny_models import encoder_spec, write_language_model, write_videoreward
from vlm_server import Handler, Server, completion, running_server, send

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
GEOMETRY = LatentGeometry(temporal_stride=4, spatial_stride=8, causal_first_frame=True)
GRID = PatchGrid(2, 1, 3)
CLIPS, FRAMES, HEIGHT, WIDTH = 3, 9, 16, 24


def make_video() -> Tensor:
    return torch.rand(CLIPS, 3, FRAMES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) * 2 - 1


def make_prompts(texts: tuple[str, ...] = ("a cat", "two red dogs", "rain")) -> PromptBatch:
    rows = [torch.randn(4, 5, generator=torch.Generator().manual_seed(len(text))) for text in texts]
    return PromptBatch(texts, Conditioning({"prompt_embeds": torch.stack(rows)}), (8.0,) * len(texts), GEOMETRY)


def small_network() -> RewardNetwork:
    torch.manual_seed(0)
    backbone = encoder_spec(patch_size=8, num_frames=FRAMES, frame_height=HEIGHT, frame_width=WIDTH)
    return RewardNetwork(RewardSpec(backbone=backbone, aspects=("a", "b", "c"), patch_aspects=("c", "a"))).eval()


def language_network(folder: Path) -> RewardNetwork:
    config = RewardConfig(backbone="smolvlm", model=str(write_language_model("smolvlm", folder)), frames=4)
    backbone = make_spec(config, (FRAMES, HEIGHT, WIDTH), GEOMETRY, 8.0, 5, "float32")
    return RewardNetwork(RewardSpec(backbone=backbone, aspects=("a", "b"), patch_aspects=("a",))).eval()


def answer_by_question(handler: Handler, body: dict[str, Any]) -> None:
    """Scores that are a function of the pictures and words that were sent."""
    digest = hashlib.sha256(json.dumps(body["messages"]).encode()).digest()
    quality, alignment, physics = (1 + 4 * byte / 255 for byte in digest[:3])
    names = ("visual quality", "text-to-video alignment", "physical/common-sense consistency")
    scores = zip(names, (quality, alignment, physics), strict=True)
    send(handler, completion("; ".join(f"{name}: {value:.3f}" for name, value in scores)))


def served(server: Server, folder: Path) -> ServedReward:
    server.always = answer_by_question
    config = ServerConfig(family="videoscore2", model="m", base_url=server.base_url, answers=folder, first_wait=0.001)
    return ServedReward(config)


# each makes a rewarder of clips of GEOMETRY on a device, in patches of GRID
IMPLEMENTATIONS: dict[str, Callable[[Server, Path, torch.device], Rewarder]] = {
    "network, dense": lambda _, folder, device: NetworkRewarder(small_network().to(device), GRID, "dense"),
    "network, crop": lambda _, folder, device: NetworkRewarder(small_network().to(device), GRID, "crop"),
    "language model": lambda _, folder, device: NetworkRewarder(language_network(folder).to(device), GRID),
    "released": lambda _, folder, device: ReleasedRewarder(
        load_released(str(write_videoreward(folder / "VideoReward", "whole", 3)), device), GRID
    ),
    "served": lambda server, folder, _: ReleasedRewarder(served(server, folder), GRID),
}
CASES = [pytest.param((name, device), id=f"{name} on {device}") for name in IMPLEMENTATIONS for device in DEVICES]


@pytest.fixture(scope="module", params=CASES)
def rewarder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    name, device = request.param
    with running_server() as server:
        yield IMPLEMENTATIONS[name](server, tmp_path_factory.mktemp("rewarder"), torch.device(device))


def told(rewarder: Rewarder, prompts: PromptBatch) -> PromptBatch:
    """Prompts with no more than a rewarder says that it needs."""
    return prompts if rewarder.needs_conditioning else PromptBatch(prompts.texts, None, prompts.fps, prompts.geometry)


def numbers(rewards: Rewards, row: int) -> list[Tensor]:
    """Everything that is told of one clip."""
    of_patches = [ratings.patches for ratings in rewards.ratings.values() if ratings.patches is not None]
    of_clips = [ratings.clip for ratings in rewards.ratings.values()]
    return [value[row] for value in (rewards.clip, rewards.patches, *of_clips, *of_patches)]


def test_shapes_and_numbers(rewarder: Rewarder) -> None:
    rewards = rewarder.reward(make_video().requires_grad_(), told(rewarder, make_prompts()))
    assert rewards.clip.shape == (CLIPS,) and rewards.patches.shape == (CLIPS, *GRID.shape)
    assert rewards.refusals == (None,) * CLIPS
    assert len(rewards.showings) in (0, CLIPS)
    for ratings in rewards.ratings.values():
        assert ratings.clip.shape == (CLIPS,)
        assert ratings.patches is None or ratings.patches.shape == rewards.patches.shape
    for value in numbers(rewards, 0):
        assert value.dtype == torch.float32 and value.device.type == "cpu"
        assert value.isfinite().all() and not value.requires_grad
    torch.testing.assert_close(rewards.patch_means, rewards.patches.mean((1, 2, 3)))


def test_a_clip_is_rewarded_by_itself_and_in_its_place(rewarder: Rewarder) -> None:
    video, prompts = make_video(), told(rewarder, make_prompts())
    together = rewarder.reward(video, prompts)
    assert len(set(together.clip.tolist())) == CLIPS, "clips that differ get different rewards"
    assert together.patches.flatten(1).std(1).min() > 0, "and so do patches"
    order = [2, 0, 1]
    turned = rewarder.reward(video[order], prompts.rows(order))
    for place, row in enumerate(order):
        alone = rewarder.reward(video[row : row + 1], prompts.rows([row]))
        for whole, single, moved in zip(numbers(together, row), numbers(alone, 0), numbers(turned, place), strict=True):
            torch.testing.assert_close(single, whole, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(moved, whole, rtol=1e-4, atol=1e-4)


def test_the_prompt_matters(rewarder: Rewarder) -> None:
    video = make_video()
    first, second = (
        rewarder.reward(video, told(rewarder, make_prompts(texts))) for texts in (("a cat",) * 3, ("two red dogs",) * 3)
    )
    assert (first.clip != second.clip).all()


def test_every_clip_is_wholly_finite_or_refused_and_the_others_go_on(rewarder: Rewarder) -> None:
    video, prompts = make_video(), told(rewarder, make_prompts())
    expected = rewarder.reward(video, prompts)
    video[1] = torch.nan
    rewards = rewarder.reward(video, prompts)
    for row in (0, 2):
        assert rewards.refusals[row] is None
        torch.testing.assert_close(rewards.clip[row], expected.clip[row], rtol=1e-4, atol=1e-4)
    for row, refusal in enumerate(rewards.refusals):
        for value in numbers(rewards, row):
            assert value.isfinite().all() if refusal is None else value.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pixels_may_come_in_any_format(rewarder: Rewarder, dtype: torch.dtype) -> None:
    rewards = rewarder.reward(make_video().to(dtype), told(rewarder, make_prompts()))
    assert rewards.refusals == (None,) * CLIPS and rewards.clip.dtype == torch.float32


def test_a_reward_is_the_mean_rating_of_the_network() -> None:
    network = small_network()
    video, prompts = make_video(), make_prompts()
    assert prompts.conditioning is not None
    for scoring, score in SCORERS.items():
        rewards = NetworkRewarder(network, GRID, scoring).reward(video, prompts)
        with torch.no_grad():
            clips, patches = score(network, video, prompts.conditioning.text_states(), GRID)
        torch.testing.assert_close(rewards.clip, clips.mean(1))
        torch.testing.assert_close(rewards.patches, patches.mean(1))
        assert list(rewards.ratings) == ["a", "b", "c"]
        torch.testing.assert_close(rewards.ratings["b"].clip, clips[:, 1])
        assert rewards.ratings["b"].patches is None
        torch.testing.assert_close(rewards.ratings["c"].patches, patches[:, 0])


def test_larger_clips_than_the_network_s_are_reduced() -> None:
    video = make_video()
    enlarged = video.repeat_interleave(2, -1).repeat_interleave(2, -2)
    rewarder = NetworkRewarder(small_network(), GRID)
    torch.testing.assert_close(
        rewarder.reward(enlarged, make_prompts()).clip, rewarder.reward(video, make_prompts()).clip
    )


def test_a_network_that_reads_conditions_says_when_there_are_none() -> None:
    with pytest.raises(ValueError, match="text conditions; none were given"):
        NetworkRewarder(small_network(), GRID).reward(
            make_video(), PromptBatch(("a",) * CLIPS, None, (8.0,) * CLIPS, GEOMETRY)
        )


def test_prompts_that_do_not_fit_together_are_refused() -> None:
    for texts, rows, fps in ((("a",), 2, (8.0,)), (("a", "b"), 2, (8.0,)), ((), 1, ())):
        with pytest.raises(ValueError, match="must have a row for each clip"):
            PromptBatch(texts, Conditioning({"prompt_embeds": torch.zeros(rows, 1, 1)}), fps, GEOMETRY)


@pytest.mark.parametrize("again", [False, True])
def test_a_patch_without_a_score_refuses_its_clip_alone(again: bool, tmp_path: Path) -> None:
    released = load_released(str(write_videoreward(tmp_path / "VideoReward", "whole", 3)))
    rewarder, rate, calls = ReleasedRewarder(released, GRID), released.rate, []

    def fail_once(frames: Tensor, prompt: str) -> Tensor:
        calls.append(prompt)
        if len(calls) == 10:  # a patch of the second clip
            raise UnscoredError("no answer", again)
        return rate(frames, prompt)

    released.rate = fail_once  # type: ignore[method-assign]
    rewards = rewarder.reward(make_video(), make_prompts())
    assert rewards.refusals == (None, Refusal("no answer", again), None)
    assert rewards.clip.isnan().tolist() == [False, True, False]
    assert [showing is None for showing in rewards.showings] == [False, True, False]


def recipe(**score: Any) -> Any:
    generator = {"num_frames": FRAMES, "height": HEIGHT, "width": WIDTH}
    grid = {"t": GRID.t, "h": GRID.h, "w": GRID.w}
    return make_config({"device": "cpu", "generator": generator, "grid": grid, "score": score})


def test_the_recipe_says_who_rewards(tmp_path: Path) -> None:
    save_reward(small_network(), tmp_path / "reward")
    folder = write_videoreward(tmp_path / "VideoReward", "whole", 3)
    video, prompts = make_video(), make_prompts()
    by_network = open_rewarder(recipe(scoring="crop"), tmp_path)
    expected = NetworkRewarder(small_network(), GRID, "crop").reward(video, prompts)
    torch.testing.assert_close(by_network.reward(video, prompts).patches, expected.patches)
    nowhere = tmp_path / "nowhere"
    by_other_run = open_rewarder(recipe(scoring="crop", trained=str(tmp_path / "reward")), nowhere)
    torch.testing.assert_close(by_other_run.reward(video, prompts).patches, expected.patches)
    by_release = open_rewarder(recipe(released=str(folder)), nowhere)
    assert isinstance(by_release, ReleasedRewarder) and by_release.released.names == ("VQ", "MQ", "TA")
    server = {"family": "unifiedreward", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    by_server = open_rewarder(recipe(server=server), nowhere)
    assert isinstance(by_server, ReleasedRewarder) and isinstance(by_server.released, ServedReward)
    with pytest.raises(InputError, match="holds no readable reward model"):
        open_rewarder(recipe(), nowhere)


def test_the_reward_model_of_another_run_is_identified_by_its_weights(tmp_path: Path) -> None:
    for name in ("one", "copy"):
        save_reward(small_network(), tmp_path / name)
    identities = [rewarder_identity(recipe(trained=str(tmp_path / name))) for name in ("one", "copy")]
    assert identities[0] == identities[1] != rewarder_identity(recipe())
    with pytest.raises(InputError, match=r"score\.trained names .*nowhere"):
        rewarder_identity(recipe(trained=str(tmp_path / "nowhere")))
