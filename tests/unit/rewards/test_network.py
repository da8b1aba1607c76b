"""The reward network: shapes, prompts, heads, and its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from halovid.maths.grid import PatchGrid
from halovid.rewards.backbones import make_backbone
from halovid.rewards.network import RewardNetwork, RewardSpec, continue_reward, load_reward, save_reward
from halovid.store.errors import InputError
from tiny_models import encoder_spec

ENCODERS = ["conv", "videomae"]
B, LENGTH, PROMPT_WIDTH, FEATURE_WIDTH = 2, 11, 5, 24
FRAMES, HEIGHT, WIDTH = 9, 8, 20
FEATURES = (3, 2, 5)  # latent frames, tokens down, tokens across
GRIDS = [(1, 1, 1), (2, 3, 5), (3, 2, 5), (5, 3, 2)]


def make_network(name: str, causal: bool = True) -> RewardNetwork:
    torch.manual_seed(0)
    backbone = encoder_spec(
        name=name,
        width=FEATURE_WIDTH,
        layers=2,
        heads=3,
        num_frames=FRAMES if causal else 12,
        frame_height=HEIGHT,
        frame_width=WIDTH,
        causal_first_frame=causal,
        prompt_width=PROMPT_WIDTH,
    )
    spec = RewardSpec(backbone=backbone, aspects=("look", "move", "fit"), patch_aspects=("fit", "look"))
    return RewardNetwork(spec).eval().requires_grad_(False)


def make_inputs(lengths: tuple[int, ...] = (7, 3)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    video = torch.rand(len(lengths), 3, FRAMES, HEIGHT, WIDTH, generator=generator) * 2 - 1
    prompts = torch.randn(len(lengths), LENGTH, PROMPT_WIDTH, generator=generator)
    for row, length in enumerate(lengths):
        prompts[row, length:] = 0
    return video, prompts


@pytest.fixture(scope="module", params=ENCODERS)
def network(request: pytest.FixtureRequest) -> RewardNetwork:
    return make_network(request.param)


def test_shapes(network: RewardNetwork) -> None:
    features = network.features(*make_inputs())
    assert features.grid.shape == (B, *FEATURES, FEATURE_WIDTH)
    assert features.clip.shape == (B, FEATURE_WIDTH)
    assert network.rate_videos(features).shape == (B, 3)
    for grid in GRIDS:
        assert network.rate_patches(features, PatchGrid(*grid)).shape == (B, 2, *grid)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_family_without_a_lone_first_frame_has_the_grid_of_its_latents(name: str) -> None:
    video = torch.zeros(B, 3, 12, HEIGHT, WIDTH)
    assert make_network(name, causal=False).features(video, make_inputs()[1]).grid.shape == (
        B,
        *FEATURES,
        FEATURE_WIDTH,
    )


def test_a_convolution_takes_any_width_that_heads_and_groups_divide() -> None:
    spec = make_network("conv").spec.backbone.model_copy(update={"width": 40, "heads": 5, "patch_size": 8})
    assert make_backbone(spec)(*make_inputs()).grid.shape == (B, 3, 1, 3, 40)


@pytest.mark.parametrize(
    ("frames", "rows", "columns", "cell"),
    [
        (slice(0, 1), slice(4, 8), slice(8, 12), (0, 1, 2)),
        (slice(1, 5), slice(0, 4), slice(16, 20), (1, 0, 4)),
        (slice(5, 9), slice(4, 8), slice(0, 4), (2, 1, 0)),
    ],
)
def test_a_feature_sees_most_of_its_own_pixels(
    network: RewardNetwork, frames: slice, rows: slice, columns: slice, cell: tuple[int, int, int]
) -> None:
    video, prompts = make_inputs((4,))
    changed = video.clone()
    changed[:, :, frames, rows, columns] *= -1
    change = (network.features(changed, prompts).grid - network.features(video, prompts).grid).norm(dim=-1)[0]
    assert change[cell] > 1.5 * change.mean()
    assert (change > change[cell]).sum() < 3


def test_padding_of_prompts_does_not_matter_and_prompts_do(network: RewardNetwork) -> None:
    video, prompts = make_inputs((7, 3))
    features = network.features(video, prompts).grid
    padded = torch.cat([prompts, torch.zeros(B, 13, PROMPT_WIDTH)], 1)
    torch.testing.assert_close(network.features(video, padded).grid, features)
    torch.testing.assert_close(network.features(video[1:], prompts[1:, :3]).grid, features[1:])
    other = prompts.clone()
    other[1, 2] += 1
    changed = network.features(video, other).grid
    torch.testing.assert_close(changed[0], features[0])
    assert (changed[1] - features[1]).abs().max() > 1e-3


@pytest.mark.parametrize("lengths", [(3, 0), (0, 0)])
def test_an_empty_prompt_is_a_prompt(network: RewardNetwork, lengths: tuple[int, int]) -> None:
    video, prompts = make_inputs(lengths)
    features = network.features(video, prompts).grid
    assert torch.isfinite(features).all()
    torch.testing.assert_close(network.features(video[1:], prompts[1:]).grid, features[1:])


def test_each_clip_is_rated_by_itself(network: RewardNetwork) -> None:
    video, prompts = make_inputs((5, 9))
    swapped = network.features(video.flip(0), prompts.flip(0)).grid.flip(0)
    torch.testing.assert_close(swapped, network.features(video, prompts).grid)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_patch_head_starts_as_the_video_head(grid: tuple[int, int, int]) -> None:
    network = make_network("videomae")
    features = network.features(*make_inputs())
    rows = [2, 0]  # ("fit", "look") of ("look", "move", "fit")
    of_clips = network.rate_videos(features)[:, rows]
    assert not torch.allclose(network.rate_patches(features, PatchGrid(*grid)).mean((2, 3, 4)), of_clips, atol=1e-3)
    network.start_patch_head()
    patches = network.rate_patches(features, PatchGrid(*grid))
    torch.testing.assert_close(patches.mean((2, 3, 4)), of_clips)  # the mean of patches is the clip
    assert not torch.equal(network.video_head.weight, network.patch_head.weight)
    before = network.video_head.weight.clone()
    network.patch_head.weight.zero_()
    assert torch.equal(network.video_head.weight, before)  # a copy, not the same


def test_a_patch_is_rated_by_the_features_in_it(network: RewardNetwork) -> None:
    features = network.features(*make_inputs())
    changed = features._replace(grid=features.grid.clone())
    changed.grid[0, 2, 1, 3] += 1
    moved = network.rate_patches(changed, PatchGrid(*FEATURES)) != network.rate_patches(features, PatchGrid(*FEATURES))
    assert moved.any(1).nonzero().tolist() == [[0, 2, 1, 3]]


def test_a_saved_network_comes_back(network: RewardNetwork, tmp_path: Path) -> None:
    save_reward(network, tmp_path / "reward")
    loaded = load_reward(tmp_path / "reward")
    assert loaded.spec == network.spec
    assert not loaded.training
    assert not any(value.requires_grad for value in loaded.parameters())
    expected, found = network.features(*make_inputs()), loaded.features(*make_inputs())
    assert torch.equal(found.grid, expected.grid)
    assert torch.equal(loaded.rate_videos(found), network.rate_videos(expected))
    grid = PatchGrid(2, 3, 5)
    assert torch.equal(loaded.rate_patches(found, grid), network.rate_patches(expected, grid))


def change_spec(folder: Path, **changes: object) -> None:
    spec = json.loads((folder / "reward.json").read_text())
    spec["backbone"] |= changes
    (folder / "reward.json").write_text(json.dumps(spec))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "reward.json").unlink(),
        lambda folder: (folder / "reward.safetensors").unlink(),
        lambda folder: (folder / "reward.json").write_text('{"backbone": {'),
        lambda folder: (folder / "reward.json").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "reward.json").write_text("{}"),
        lambda folder: (folder / "reward.safetensors").write_bytes(b""),
        lambda folder: (folder / "reward.safetensors").write_bytes((folder / "reward.safetensors").read_bytes()[:-99]),
        lambda folder: change_spec(folder, width=48),
        lambda folder: change_spec(folder, layers=3),
        lambda folder: change_spec(folder, heads=5),
        lambda folder: change_spec(folder, name="unknown"),
    ],
    ids=["no spec", "no weights", "half spec", "bytes", "empty", "no bytes", "cut", "wide", "deep", "heads", "name"],
)
def test_a_damaged_folder_is_an_input_error(
    network: RewardNetwork, damage: Callable[[Path], object], tmp_path: Path
) -> None:
    save_reward(network, tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=r"(?s)holds no readable reward model .* run `halovid reward` again"):
        load_reward(tmp_path)


def test_a_missing_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no readable reward model"):
        load_reward(tmp_path / "nowhere")


def test_a_continued_network_is_the_stored_one_and_can_be_trained(network: RewardNetwork, tmp_path: Path) -> None:
    save_reward(network, tmp_path)
    going_on = continue_reward(tmp_path, network.spec)
    assert all(parameter.requires_grad for parameter in going_on.parameters())
    stored = network.stored_state()
    assert all(torch.equal(value, stored[name]) for name, value in going_on.stored_state().items())


def test_a_network_of_another_shape_is_not_continued(network: RewardNetwork, tmp_path: Path) -> None:
    save_reward(network, tmp_path)
    other = network.spec.model_copy(update={"aspects": ("look", "move"), "patch_aspects": ("look",)})
    with pytest.raises(InputError, match=r"another shape than this recipe's: aspects \('look', 'move', 'fit'\), not"):
        continue_reward(tmp_path, other)
