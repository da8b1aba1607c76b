"""Training of reward networks: both losses, their scale, kill and continue, what is stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from halovid.config.reward import RewardConfig
from halovid.maths.grid import PatchGrid
from halovid.rewards import training
from halovid.rewards.agreement import rate
from halovid.rewards.data import LabelledClips
from halovid.rewards.network import RewardNetwork, RewardSpec, load_reward, save_reward
from tiny_models import encoder_spec

GRID = PatchGrid(3, 2, 2)
ASPECTS = ("visual_quality", "text_alignment")


def make_network(labels: torch.Tensor) -> RewardNetwork:
    torch.manual_seed(0)
    backbone = encoder_spec()
    network = RewardNetwork(RewardSpec(backbone=backbone, aspects=ASPECTS, patch_aspects=("visual_quality",)))
    network.start_heads(labels)
    return network


@pytest.fixture(scope="module")
def data() -> LabelledClips:
    """Clips whose patches are the better the brighter they are."""
    generator = torch.Generator().manual_seed(0)
    light = torch.rand(24, *GRID.shape, generator=generator)
    frames = light.repeat_interleave(torch.tensor([1, 4, 4]), 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    video = (2 * frames - 1)[:, None].expand(-1, 3, -1, -1, -1)
    clip = torch.stack([1 + 4 * light.mean((1, 2, 3)), 5 - 4 * light.mean((1, 2, 3))], 1)
    prompts = torch.randn(2, 3, 5, generator=generator)
    return LabelledClips(video.half(), prompts, torch.arange(24) % 2, clip, 1 + 4 * light[:, None])


def settings(**changes: object) -> RewardConfig:
    values = {"aspects": ASPECTS, "patch_aspects": ASPECTS[:1], "video_steps": 30, "patch_steps": 60, "batch_size": 8}
    return RewardConfig.model_validate(values | {"width": 16, "heads": 2, "patch_size": 4, "crops": 2} | changes)


@pytest.mark.parametrize("loss", ["regression", "bradley_terry"])
def test_either_loss_learns_clips_and_patches_on_the_labels_scale(
    loss: str, data: LabelledClips, tmp_path: Path
) -> None:
    network = make_network(data.clip_ratings)
    training.train_reward(network, data, settings(loss=loss), 0, tmp_path)
    clip, patches = (torch.from_numpy(value) for value in rate(network.eval(), data, "dense", GRID, 8))
    for rated, truth in ((clip[:, 0], data.clip_ratings[:, 0]), (patches.flatten(), data.patch_ratings.flatten())):
        assert torch.corrcoef(torch.stack([rated, truth]))[0, 1] > 0.9
    assert (clip.mean(0) - data.clip_ratings.mean(0)).abs().max() < 0.2
    if loss == "bradley_terry":  # preferences say nothing of the scale: it is that of the labels by construction
        torch.testing.assert_close(clip.mean(0), data.clip_ratings.mean(0), atol=1e-3, rtol=0)
        torch.testing.assert_close(clip.std(0), data.clip_ratings.std(0), atol=1e-3, rtol=0)


def test_shift_and_scale_are_of_the_labels_and_come_back_from_disk(data: LabelledClips, tmp_path: Path) -> None:
    network = make_network(data.clip_ratings)
    torch.testing.assert_close(network.shift, data.clip_ratings.mean(0))
    torch.testing.assert_close(network.scale, data.clip_ratings.std(0))
    save_reward(network, tmp_path)
    loaded = load_reward(tmp_path)
    assert torch.equal(loaded.shift, network.shift) and torch.equal(loaded.scale, network.scale)
    inputs = data.inputs(torch.device("cpu"))
    features = loaded.features(*inputs)
    torch.testing.assert_close(
        loaded.rate_patches(features, GRID), network.shift[0] + network.scale[0] * loaded.score_patches(features, GRID)
    )


def test_an_aspect_that_is_always_rated_alike_keeps_a_scale() -> None:
    network = make_network(torch.tensor([[3.0, 1.0], [3.0, 5.0]]))
    assert network.scale[0] > 0


@pytest.mark.parametrize("loss", ["regression", "bradley_terry"])
def test_a_training_that_continues_equals_one_that_was_not_interrupted(
    loss: str, data: LabelledClips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 4)
    config = settings(loss=loss, video_steps=5, patch_steps=5)
    whole, parts = make_network(data.clip_ratings), make_network(data.clip_ratings)
    training.train_reward(whole, data, config, 0, tmp_path)
    with monkeypatch.context() as killed:
        killed.setattr(training, "_loss_terms", _dies_after(6))
        with pytest.raises(KeyboardInterrupt):
            training.train_reward(parts, data, config, 0, tmp_path / "parts")
    parts = make_network(data.clip_ratings)
    training.train_reward(parts, data, config, 0, tmp_path / "parts")
    for name, value in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[name], value), name


def _dies_after(calls: int):  # type: ignore[no-untyped-def]
    left = [calls]
    original = training._loss_terms

    def dying(*arguments):  # type: ignore[no-untyped-def]
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return original(*arguments)

    return dying
