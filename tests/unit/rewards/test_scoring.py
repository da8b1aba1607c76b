"""Dense and crop scoring, and the crops themselves."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from halovid.maths.grid import LatentGeometry, PatchGrid, spread_to_frames
from halovid.rewards.network import RewardNetwork, RewardSpec
from halovid.rewards.scoring import SCORERS, crop_patches, geometry_of, score_crop, score_dense
from tiny_models import encoder_spec

ENCODERS = ["conv", "videomae"]
CAUSAL = LatentGeometry(temporal_stride=4, spatial_stride=1, causal_first_frame=True)
PLAIN = LatentGeometry(temporal_stride=3, spatial_stride=1, causal_first_frame=False)
FRAMES, HEIGHT, WIDTH = 9, 8, 12
GRID = PatchGrid(3, 2, 3)


@pytest.fixture(scope="module", params=ENCODERS)
def network(request: pytest.FixtureRequest) -> RewardNetwork:
    torch.manual_seed(0)
    backbone = encoder_spec(
        name=request.param, width=24, heads=3, num_frames=FRAMES, frame_height=HEIGHT, frame_width=WIDTH
    )
    spec = RewardSpec(backbone=backbone, aspects=("a", "b", "c"), patch_aspects=("c", "a"))
    return RewardNetwork(spec).eval().requires_grad_(False)


def make_inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randn(5, 7, 5, generator=generator)
    for row, length in enumerate((7, 1, 3, 2, 5)):
        prompts[row, length:] = 0
    return torch.rand(5, 3, FRAMES, HEIGHT, WIDTH, generator=generator) * 2 - 1, prompts


def patch_clip(grid: PatchGrid, num_frames: int, height: int, width: int, geometry: LatentGeometry) -> Tensor:
    """A clip [3, F, H, W] whose patches have one value each: 0, 1, 2 .. in the first channel."""
    values = torch.arange(grid.num_patches, dtype=torch.float32).reshape(grid.shape)
    frames = spread_to_frames(values, num_frames, geometry)
    pixels = frames.repeat_interleave(height // grid.h, 1).repeat_interleave(width // grid.w, 2)
    return torch.stack([pixels, -pixels, pixels * 0])


@pytest.mark.parametrize("scoring", ["dense", "crop"])
def test_a_batch_is_scored_like_its_clips_one_by_one(network: RewardNetwork, scoring: str) -> None:
    video, prompts = make_inputs()
    clips, patches = SCORERS[scoring](network, video, prompts, GRID)
    assert clips.shape == (5, 3)
    assert patches.shape == (5, 2, *GRID.shape)
    for row in range(5):
        alone = SCORERS[scoring](network, video[row : row + 1], prompts[row : row + 1], GRID)
        torch.testing.assert_close(alone[0], clips[row : row + 1])
        torch.testing.assert_close(alone[1], patches[row : row + 1])
    assert patches.flatten(1).std(0).min() > 1e-5  # clips do differ


def test_a_patch_is_rated_as_a_clip_of_its_own(network: RewardNetwork) -> None:
    video, prompts = make_inputs()
    clips, patches = score_crop(network, video, prompts, GRID)
    torch.testing.assert_close(clips, score_dense(network, video, prompts, GRID)[0])
    for row, place in itertools.product((0, 3), itertools.product(*map(range, GRID.shape))):
        index = (place[0] * GRID.h + place[1]) * GRID.w + place[2]
        crop = crop_patches(video[row], GRID, CAUSAL)[index]
        expected = network.rate_videos(network.features(crop[None], prompts[row : row + 1]))[0]
        torch.testing.assert_close(patches[(row, slice(None), *place)], expected[[2, 0]])


def test_the_division_in_time_is_that_of_the_network(network: RewardNetwork) -> None:
    geometry = geometry_of(network)
    assert (geometry.temporal_stride, geometry.causal_first_frame) == (4, True)


@pytest.mark.parametrize(
    ("geometry", "num_frames", "shape"),
    [
        (CAUSAL, 13, (4, 2, 3)),  # the first frame is a patch of its own
        (CAUSAL, 13, (2, 5, 1)),
        (CAUSAL, 13, (1, 1, 1)),
        (CAUSAL, 1, (1, 2, 3)),
        (PLAIN, 15, (5, 3, 2)),
        (PLAIN, 12, (2, 1, 7)),
    ],
)
def test_crops_of_a_clip_with_one_value_per_patch_show_that_value(
    geometry: LatentGeometry, num_frames: int, shape: tuple[int, int, int]
) -> None:
    grid = PatchGrid(*shape)
    height, width = 30, 42
    video = patch_clip(grid, num_frames, height, width, geometry)
    crops = crop_patches(video, grid, geometry)
    assert crops.shape == (grid.num_patches, 3, num_frames, height, width)
    expected = torch.arange(grid.num_patches, dtype=torch.float32)[:, None, None, None]
    torch.testing.assert_close(crops[:, 0], expected.expand_as(crops[:, 0]))
    torch.testing.assert_close(crops[:, 1], -crops[:, 0])
    assert (crops[:, 2] == 0).all()


def test_a_crop_keeps_the_order_of_time_rows_and_columns() -> None:
    frames, rows, columns = torch.arange(13.0), torch.arange(12.0), torch.arange(15.0)
    shape = (13, 12, 15)
    video = torch.stack(
        [
            frames[:, None, None].expand(shape),
            rows[None, :, None].expand(shape),
            columns[None, None, :].expand(shape),
        ]
    )
    crop = crop_patches(video, PatchGrid(2, 3, 5), CAUSAL, only=(1 * 3 + 1) * 5 + 2)[0]
    in_time, down, across = crop[0, :, 0, 0], crop[1, 0, :, 0], crop[2, 0, 0]
    for values, first, last in ((in_time, 5, 12), (down, 4, 7), (across, 6, 8)):
        assert (values.diff() >= 0).all()
        assert (values[0], values[-1]) == (first, last)
    assert torch.equal(in_time, in_time.round())  # whole frames, never a mixture


def test_one_crop_alone_is_the_same() -> None:
    video = torch.rand(3, 13, 14, 22, generator=torch.Generator().manual_seed(0))
    grid = PatchGrid(2, 3, 5)
    crops = crop_patches(video, grid, CAUSAL)
    for index in (0, 7, 29):
        assert torch.equal(crop_patches(video, grid, CAUSAL, only=index), crops[index : index + 1])


@pytest.mark.parametrize("shape", [(3, 5, 7), (5, 2, 2), (11, 11, 11), (13, 3, 30)])
def test_patches_of_any_size_hold_at_least_a_pixel_and_together_the_clip(shape: tuple[int, int, int]) -> None:
    grid = PatchGrid(*shape)
    video = torch.arange(13.0 * 8 * 12).reshape(1, 13, 8, 12).expand(3, -1, -1, -1)
    crops = crop_patches(video, grid, CAUSAL)
    assert crops.shape == (grid.num_patches, 3, 13, 8, 12)
    assert torch.isfinite(crops).all()
    of_time = crops[:, 0].unflatten(0, shape).amin((1, 2, 4, 5))  # [t, frame]
    assert (of_time.diff(dim=0) >= 0).all()
    assert crops.min() == 0 and crops.max() == video.max()
