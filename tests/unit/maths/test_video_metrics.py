"""Measures of a clip, against closed forms, independent references, and known motion."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from halovid.maths import video_metrics
from halovid.maths.video_metrics import (
    diversity,
    dynamic_degree,
    estimate_flow,
    flow_warp_error,
    ssim_stability,
    temporal_flickering,
)

Measure = Callable[[Tensor], Tensor]
MEASURES: list[Measure] = [temporal_flickering, ssim_stability, flow_warp_error, dynamic_degree]


def moving_texture(num_frames: int, height: int, width: int, velocity: tuple[float, float]) -> Tensor:
    """Waves of 6 to 20 pixels that move by (x, y) pixels per frame, exact at every fraction of a pixel."""
    generator = torch.Generator().manual_seed(0)
    length, angle = torch.rand(2, 12, generator=generator, dtype=torch.float64)
    phase = 2 * math.pi * torch.rand(3, 12, generator=generator, dtype=torch.float64)
    wave = 2 * math.pi / (6 + 14 * length)
    time = torch.arange(num_frames, dtype=torch.float64)[:, None, None, None]
    x = torch.arange(width, dtype=torch.float64)[:, None] - velocity[0] * time
    y = torch.arange(height, dtype=torch.float64)[:, None, None] - velocity[1] * time
    along = wave * ((2 * math.pi * angle).cos() * x + (2 * math.pi * angle).sin() * y)
    return torch.cos(along + phase[:, None, None, None]).mean(-1)


def random_video(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def endpoint_error(video: Tensor, velocity: tuple[float, float]) -> float:
    """Mean distance in pixels between the estimated and the true motion."""
    backwards = torch.tensor(velocity, dtype=video.dtype)[:, None, None]
    return float((estimate_flow(video) + backwards).norm(dim=-3).mean())


@pytest.mark.parametrize(("measure", "value"), list(zip(MEASURES, [1, 1, 0, 0], strict=True)))
def test_a_still_clip_has_the_best_value(measure: Measure, value: float) -> None:
    still = random_video(3, 1, 23, 37).expand(3, 5, 23, 37)
    assert measure(still).item() == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("measure", MEASURES)
def test_each_clip_of_a_batch_is_measured_alone(measure: Measure) -> None:
    videos = random_video(2, 5, 3, 4, 13, 17)
    single = torch.stack([torch.stack([measure(clip) for clip in row]) for row in videos])
    torch.testing.assert_close(measure(videos), single)
    assert measure(videos[0, 0]).shape == ()


@pytest.mark.parametrize("measure", [ssim_stability, flow_warp_error, dynamic_degree])
def test_the_chunk_size_changes_nothing(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = random_video(2, 3, 5, 13, 17)
    whole = measure(videos)
    monkeypatch.setattr(video_metrics, "_CHUNK", 3 * 13 * 17)
    torch.testing.assert_close(measure(videos), whole)


@pytest.mark.parametrize("measure", MEASURES)
def test_half_precision_is_measured_in_float32(measure: Measure) -> None:
    video = random_video(3, 3, 13, 17).bfloat16()
    assert measure(video).dtype == torch.float32
    torch.testing.assert_close(measure(video), measure(video.float()))


def test_flickering_is_the_8_bit_formula_of_vbench() -> None:
    frames = np.random.default_rng(0).integers(0, 256, size=(5, 7, 11, 3)).astype(np.float64)
    errors = [np.abs(after - before).mean() for before, after in itertools.pairwise(frames)]
    video = torch.tensor(frames / 127.5 - 1).permute(3, 0, 1, 2)
    assert temporal_flickering(video).item() == pytest.approx((255 - np.mean(errors)) / 255, abs=1e-12)


def test_ssim_agrees_with_a_filter_of_whole_images() -> None:
    video = random_video(3, 3, 13, 19).double()
    images = (video.numpy() + 1) / 2

    def blur(image: np.ndarray) -> np.ndarray:
        return np.asarray(gaussian_filter(image, sigma=1.5, radius=5))[5:-5, 5:-5]

    values = []
    for channel, frame in itertools.product(range(3), range(2)):
        first, second = images[channel, frame], images[channel, frame + 1]
        mean_1, mean_2 = blur(first), blur(second)
        variance_1, variance_2 = blur(first**2) - mean_1**2, blur(second**2) - mean_2**2
        covariance = blur(first * second) - mean_1 * mean_2
        luminance = (2 * mean_1 * mean_2 + 1e-4) / (mean_1**2 + mean_2**2 + 1e-4)
        values.append(luminance * (2 * covariance + 9e-4) / (variance_1 + variance_2 + 9e-4))
    assert ssim_stability(video).item() == pytest.approx(np.mean(values), abs=1e-12)


def test_ssim_of_plain_frames_compares_their_brightness() -> None:
    dark, light = 0.2, 0.7
    plain = torch.tensor([dark, light], dtype=torch.float64)[:, None, None].expand(3, 2, 11, 12) * 2 - 1
    expected = (2 * dark * light + 1e-4) / (dark**2 + light**2 + 1e-4)
    assert ssim_stability(plain).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("velocity", [(1.0, 0.5), (-2.5, 1.0), (0.0, -1.5)])
@pytest.mark.parametrize("size", [(64, 64), (37, 53), (23, 41)])
def test_flow_recovers_a_moving_texture(velocity: tuple[float, float], size: tuple[int, int]) -> None:
    video = moving_texture(3, *size, velocity)
    flow = estimate_flow(video)
    assert flow.shape == (2, 2, *size)
    assert flow.mean((0, 2, 3)).tolist() == pytest.approx([-velocity[0], -velocity[1]], abs=0.1)
    assert endpoint_error(video, velocity) < 0.15


def test_flow_of_a_still_clip_is_zero_but_for_rounding() -> None:
    still = random_video(3, 1, 23, 41).expand(3, 3, 23, 41)
    assert estimate_flow(still).abs().max() < 1e-4
    assert estimate_flow(still.double()).abs().max() < 1e-12


def test_flow_turns_with_the_clip() -> None:
    video = moving_texture(2, 37, 53, (1.0, 0.5))
    flow = estimate_flow(video)
    torch.testing.assert_close(estimate_flow(video.mT), flow.flip(1).mT)
    # a pyramid level of odd size is not symmetric, hence only nearly mirrored
    mirrored = estimate_flow(video.flip(-1)).flip(-1) * torch.tensor([-1.0, 1.0])[:, None, None]
    assert (mirrored - flow).norm(dim=1).mean() < 0.02


def test_flow_finds_an_object_and_leaves_the_rest() -> None:
    texture = moving_texture(2, 64, 64, (2.0, 0.0))
    video = moving_texture(1, 64, 64, (0.0, 0.0)).flip(-2).repeat(1, 2, 1, 1)
    for frame in range(2):
        columns = slice(20 + 2 * frame, 44 + 2 * frame)
        video[:, frame, 20:44, columns] = texture[:, frame, 20:44, columns]
    flow = estimate_flow(video)[0]
    assert flow[:, 28:36, 30:38].mean((1, 2)).tolist() == pytest.approx([-2, 0], abs=0.15)
    assert flow[:, :, 52:].norm(dim=0).mean() < 0.15
    assert dynamic_degree(video).item() == pytest.approx(2, abs=0.4)


@pytest.mark.parametrize("measure", [flow_warp_error, dynamic_degree])
@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_a_flow_that_is_there_already_gives_the_same(measure: Callable[..., Tensor], leading: tuple[int, ...]) -> None:
    video = random_video(*leading, 3, 4, 24, 28)
    assert torch.equal(measure(video, estimate_flow(video)), measure(video))


def test_dynamic_degree_is_the_speed_of_a_moving_texture() -> None:
    speeds = [dynamic_degree(moving_texture(3, 64, 64, (k, -k / 2))).item() for k in (0.5, 1.0, 2.0)]
    expected = [k * math.sqrt(1.25) for k in (0.5, 1.0, 2.0)]
    assert speeds == pytest.approx(expected, rel=0.1, abs=0.15)


def test_dynamic_degree_looks_at_the_fastest_twentieth(monkeypatch: pytest.MonkeyPatch) -> None:
    def flow(previous: Tensor, current: Tensor) -> Tensor:
        vectors = torch.zeros(len(previous), 2, 10, 20)
        vectors[:, 0, 0, :5], vectors[:, 1, 0, :5] = 3.0, -4.0  # half of the 10 vectors that count
        return vectors

    monkeypatch.setattr(video_metrics, "_flow", flow)
    assert dynamic_degree(torch.zeros(3, 4, 10, 20)).item() == 2.5


def test_warp_error_forgives_motion_but_not_flicker() -> None:
    moving = moving_texture(5, 64, 64, (1.0, 0.5))
    frames = (moving + 1) / 2
    unwarped = (frames[:, 1:] - frames[:, :-1]).square().mean().item()
    error = flow_warp_error(moving).item()
    assert error < 0.02 * unwarped

    flickering = moving.clone()
    flickering[:, 2, 16:32, 24:40] *= 0.2
    assert flow_warp_error(flickering).item() > 10 * error


def test_warp_error_of_plain_frames_is_their_squared_difference() -> None:
    levels = torch.tensor([0.1, 0.4, 0.2], dtype=torch.float64)  # no texture: nothing to explain it by motion
    video = (levels * 2 - 1)[:, None, None].expand(3, 3, 7, 11)
    assert flow_warp_error(video).item() == pytest.approx((0.3**2 + 0.2**2) / 2, rel=1e-9)


def test_warp_error_leaves_out_what_enters_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = random_video(3, 1, 5, 30).double()
    video = torch.cat([scene[..., 3:14], scene[..., 0:11]], dim=1)  # moves right by 3; 3 columns enter

    def flow(previous: Tensor, current: Tensor) -> Tensor:
        return torch.tensor([-3.0, 0.0], dtype=torch.float64)[:, None, None].expand(1, 2, 5, 11)

    monkeypatch.setattr(video_metrics, "_flow", flow)
    assert flow_warp_error(video).item() == pytest.approx(0, abs=1e-20)


def test_diversity_is_the_mean_distance_to_the_others() -> None:
    videos = random_video(5, 3, 2, 8, 12).double()
    pooled = videos.numpy().reshape(5, 3, 2, 2, 4, 3, 4).mean((4, 6))
    for index, value in enumerate(diversity(videos)):
        distances = [math.sqrt(np.mean((pooled[index] - other) ** 2)) for other in np.delete(pooled, index, axis=0)]
        assert value.item() == pytest.approx(np.mean(distances), abs=1e-12)
    pairs = [math.sqrt(np.mean((a - b) ** 2)) for a, b in itertools.combinations(pooled, 2)]
    assert diversity(videos).mean().item() == pytest.approx(np.mean(pairs), abs=1e-12)


def test_diversity_runs_from_alike_to_black_and_white() -> None:
    black, white = torch.full((3, 1, 7, 11), -1.0), torch.full((3, 1, 7, 11), 1.0)
    assert diversity(torch.stack([white, white, white])).tolist() == [0, 0, 0]
    assert diversity(torch.stack([black, white])).tolist() == pytest.approx([2, 2])


def test_diversity_does_not_see_grain() -> None:
    grain = torch.ones(8, 12)
    grain[::2, ::2] = grain[1::2, 1::2] = -1
    plain = torch.zeros(3, 2, 8, 12)
    assert diversity(torch.stack([plain, plain + grain])).tolist() == pytest.approx([0, 0], abs=1e-7)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("video", "message"),
    [
        (torch.zeros(2, 13, 17), r"\(2, 13, 17\).*\[\.\.\., 3, F, H, W\]"),
        (torch.zeros(5, 3, 13, 17), r"\(5, 3, 13, 17\)"),
        (torch.zeros(3, 5, 13, 17, dtype=torch.uint8), "uint8.*floating point"),
        (torch.zeros(3, 1, 13, 17), "1 frames.*at least 2"),
        (torch.zeros(3, 2, 1, 17), "1 x 17 pixels"),
    ],
)
def test_measures_refuse_what_is_no_video(measure: Measure, video: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(video)


def test_sizes_that_a_window_does_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"10 x 11 pixels.*11 x 11"):
        ssim_stability(torch.zeros(3, 2, 10, 11))
    with pytest.raises(ValueError, match=r"3 x 11 pixels.*4 x 4"):
        diversity(torch.zeros(2, 3, 1, 3, 11))
    with pytest.raises(ValueError, match="S >= 2"):
        diversity(torch.zeros(1, 3, 5, 7, 11))
