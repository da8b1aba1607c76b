"""Pre-processing in torch alone gives what the processors of transformers give."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from transformers.models.idefics2.image_processing_pil_idefics2 import get_resize_output_image_size
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from halovid.rewards.backbones.smolvlm import SmolVLMBackbone
from halovid.rewards.readers.pixels import cut_into_patches, fit_area, fit_edges, normalise, resize, to_bytes

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def make_pictures(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def as_images(pictures: Tensor) -> list[Image.Image]:
    return [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pictures]


def test_bytes_are_those_of_a_video_file() -> None:
    values = torch.arange(256)
    assert torch.equal(to_bytes(values / 127.5 - 1), values.byte())
    assert to_bytes(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


@pytest.mark.parametrize(("mode", "filter_"), [("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)])
@pytest.mark.parametrize("size", [(20, 35), (61, 50), (13, 97)])
def test_resizing_is_pillows(mode: str, filter_: Any, size: tuple[int, int]) -> None:
    pictures = make_pictures(2, 3, 37, 50)
    expected = np.stack([np.asarray(image.resize(size[::-1], filter_)) for image in as_images(pictures)])
    found = resize(pictures, size, mode).permute(0, 2, 3, 1).numpy()
    difference = np.abs(found.astype(int) - expected)  # of 255, on white noise, the hardest case
    assert difference.max() <= (1 if mode == "bilinear" else 8)
    assert (difference <= 1).mean() > 0.95


def test_resizing_keeps_leading_axes_and_a_size_that_fits() -> None:
    pictures = make_pictures(2, 5, 3, 8, 12)
    assert resize(pictures, (8, 12), "bicubic") is pictures
    resized = resize(pictures, (6, 7), "bicubic")
    assert resized.shape == (2, 5, 3, 6, 7) and resized.dtype == torch.uint8
    assert torch.equal(resized[1, 3], resize(pictures[1, 3:4], (6, 7), "bicubic")[0])


@settings(max_examples=200)
@given(st.integers(10, 2000), st.integers(10, 2000), st.sampled_from([28, 32]))
def test_sizes_by_area_are_qwens(height: int, width: int, factor: int) -> None:
    low, high = 128 * 28 * 28, 768 * 28 * 28
    if max(height, width) / min(height, width) > 50:
        return
    found = fit_area(height, width, factor, low, high)
    assert found == smart_resize(height, width, factor, low, high)


@settings(max_examples=200)
@given(st.integers(1, 3000), st.integers(1, 3000))
def test_sizes_by_edges_are_those_of_idefics2(height: int, width: int) -> None:
    size = transformers.image_utils.SizeDict(shortest_edge=378, longest_edge=980)
    expected = get_resize_output_image_size(np.empty((3, height, width), np.bool_), size)
    assert fit_edges(height, width, 378, 980) == tuple(expected)


def test_patches_of_a_picture_are_qwens() -> None:
    pictures = make_pictures(1, 3, 84, 56)
    processor = transformers.Qwen2VLImageProcessorPil(do_resize=False)
    expected = processor(as_images(pictures), return_tensors="pt")
    twice = normalise(pictures, *CLIP)[None].expand(1, 2, 3, 84, 56)  # a picture counts as two equal frames
    torch.testing.assert_close(cut_into_patches(twice, 14, 2, 2), expected["pixel_values"])
    assert expected["image_grid_thw"].tolist() == [[1, 6, 4]]


def test_frames_of_idefics2_are_its_processors() -> None:
    pictures = make_pictures(3, 3, 30, 64)
    size = {"shortest_edge": 28, "longest_edge": 56}
    processor = transformers.Idefics2ImageProcessorPil(size=size, do_image_splitting=False)
    expected = processor([as_images(pictures)], return_tensors="pt")
    found = normalise(resize(pictures, fit_edges(30, 64, 28, 56), "bilinear"), *HALF)
    assert expected["pixel_attention_mask"].all()
    assert (found - expected["pixel_values"][0]).abs().max() <= 2.01 / 255  # one step of a byte


def test_every_pixel_is_in_one_patch_of_its_own_place() -> None:
    """Patch k of the flat list is row, column and time of the merged grid, then the place in its token."""
    place = torch.arange(2 * 4 * 12 * 8).reshape(2, 4, 1, 12, 8).float().expand(2, 4, 3, 12, 8)
    patches = cut_into_patches(place, patch=2, merge=2, frames=2)
    assert patches.shape == (2 * 2 * 6 * 4, 3 * 2 * 2 * 2)
    assert torch.equal(patches.flatten().sort().values, place.flatten().sort().values)
    first = patches.unflatten(0, (2, 2, 3, 2, 2, 2))[1, 1, 2, 1, 1, 0].unflatten(0, (3, 2, 2, 2))
    assert torch.equal(first, place[1, 2:4, :, 8 + 2 : 8 + 4, 4 : 4 + 2].transpose(0, 1))


def video_processor(name: str, **settings: Any) -> Any:
    """A video processor of transformers; they need torchvision, which does not load beside every torch."""
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision does not load here: {error}")
    return getattr(transformers, name)(**settings)


@pytest.mark.parametrize(
    ("name", "patch", "statistics"),
    [("Qwen2VLVideoProcessor", 14, CLIP), ("Qwen3VLVideoProcessor", 16, HALF)],
)
def test_clips_are_those_of_qwens_video_processors(name: str, patch: int, statistics: Any) -> None:
    frames, height, width = make_pictures(4, 3, 90, 130), 4 * 2 * patch, 5 * 2 * patch
    processor = video_processor(name, do_sample_frames=False, do_resize=False)
    resized = resize(frames, (height, width), "bicubic")
    expected = processor(videos=[resized], return_tensors="pt")
    found = cut_into_patches(normalise(resized, *statistics)[None], patch, 2, 2)
    torch.testing.assert_close(found, expected["pixel_values_videos"], atol=1e-5, rtol=0)
    assert expected["video_grid_thw"].tolist() == [[2, height // patch, width // patch]]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("VideoMAEVideoProcessor", {"size": {"height": 32, "width": 32}}),
        ("VJEPA2VideoProcessor", {"crop_size": {"height": 28, "width": 28}}),  # it resizes to 256/224 of its crop
    ],
)
def test_clips_are_those_of_the_video_encoders_processors(name: str, settings: dict[str, Any]) -> None:
    frames = make_pictures(4, 3, 64, 64)
    processor = video_processor(
        name, do_sample_frames=False, do_center_crop=False, image_mean=IMAGENET[0], image_std=IMAGENET[1], **settings
    )
    expected = processor(videos=[frames], return_tensors="pt")
    found = normalise(resize(frames, (32, 32), "bilinear"), *IMAGENET)
    torch.testing.assert_close(found, next(iter(expected.values()))[0], atol=1e-5, rtol=0)


def test_frames_of_smolvlm_are_its_video_processors() -> None:
    frames = make_pictures(3, 3, 48, 48)
    # bicubic: what it falls back to on a GPU, where there is no Lanczos filter
    settings = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 32}, "resample": Image.BICUBIC}
    processor = video_processor("SmolVLMVideoProcessor", do_sample_frames=False, **settings)
    expected = processor(videos=[frames], return_tensors="pt")["pixel_values"][0]
    found = normalise(resize(frames, (32, 32), SmolVLMBackbone.resampling), *HALF)
    assert (found - expected).abs().max() < 1e-5
