"""What holds for every family: clips become latents and pixels as its plain pipeline's do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from family_models import SEEDS, config_of
from halovid.models import DiffusionModel, check_model
from halovid.models.restoring import remake
from halovid.records import Conditioning
from halovid.store.errors import InputError
from tiny_pipelines import TINY

pytest_plugins = ["family_fixtures"]


def test_latents_have_the_shape_of_the_geometry(model: DiffusionModel, samples: Tensor, folder: Path) -> None:
    size = TINY[folder.name].size
    assert tuple(samples.shape[2:]) == model.geometry.latent_shape(*size)
    assert model.latent_shape == tuple(samples.shape[1:])
    video = model.decode_video(samples)
    assert tuple(video.shape) == (len(SEEDS), 3, *size)
    assert model.encode_video(video).shape == samples.shape


def test_encoding_is_the_inverse_of_the_pipelines_scaling(model: DiffusionModel, samples: Tensor) -> None:
    """An autoencoder's own latents, scaled by `encode_video`, are what `decode_video` scales back."""
    video = model.decode_video(samples)
    autoencoder = model._autoencoder()
    seen: list[Tensor] = []
    decode = autoencoder.decode
    autoencoder.decode = lambda latents, *rest, **named: (seen.append(latents), decode(latents, *rest, **named))[1]
    model.decode_video(model.encode_video(video))
    autoencoder.decode = decode
    found = torch.cat(seen)
    frames = video.transpose(1, 2).flatten(0, 1) if found.ndim == 4 else video
    with torch.no_grad():
        encoded = [autoencoder.encode(clip) for clip in frames.split(1)]
    expected = [part.latent_dist.mode() if hasattr(part, "latent_dist") else part.latent for part in encoded]
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-4)


def test_a_latent_cell_is_the_place_of_its_pixels(
    model: DiffusionModel, samples: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed cell is a change at the same place of what the autoencoder decodes, and nowhere else."""
    autoencoder, decode = model._autoencoder(), model._autoencoder().decode
    seen: list[Tensor] = []
    monkeypatch.setattr(
        autoencoder,
        "decode",
        lambda latents, *rest, **named: (seen.append(latents), decode(latents, *rest, **named))[1],
    )
    frames, height, width = samples.shape[2:]
    time, row, column = frames - 1, height - 1, width // 2
    changed = samples[:1].clone()
    changed[:, :, time, row, column] += 1
    model.decode_video(samples[:1])
    model.decode_video(changed)
    before, after = (torch.cat(inputs) for inputs in (seen[: len(seen) // 2], seen[len(seen) // 2 :]))
    is_changed = (before != after).flatten(0, -3).any(0)
    scale = is_changed.shape[0] // height
    expected = torch.zeros_like(is_changed)
    expected[row * scale : (row + 1) * scale, column * scale : (column + 1) * scale] = True
    assert torch.equal(is_changed, expected)


@pytest.mark.parametrize("sigma", [0.2, 0.6, 1.0])
def test_restoring_with_a_perfect_denoiser_gives_the_clip_back(
    sigma: float, model: DiffusionModel, conditioning: Conditioning, samples: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, noise = samples.double(), torch.randn(samples.shape, dtype=torch.float64)
    monkeypatch.setattr(model, "predict", lambda noisy, level, texts: model.noise.target(latents, noise, level))
    everywhere = torch.ones(len(latents), *latents.shape[2:])
    remade = remake(model, latents, everywhere, conditioning, noise, sigma=sigma, steps=5)
    torch.testing.assert_close(remade, latents, rtol=1e-4, atol=1e-4)


def test_sides_and_lengths_that_the_model_cannot_make_are_refused_with_the_rule(
    folder: Path, model: DiffusionModel
) -> None:
    family, geometry, (_, height, _) = model._family, model.geometry, TINY[folder.name].size
    side = geometry.spatial_stride * family.side_multiple
    if side > 8:  # recipes allow multiples of 8
        with pytest.raises(InputError, match=f"both must be multiples of {side} "):
            check_model(config_of(folder, height=height + 8))
    check_model(config_of(folder, height=height + side))
    if family.frame_multiple > 1:
        frames = geometry.temporal_stride + int(geometry.causal_first_frame)
        with pytest.raises(InputError, match="needs "):
            check_model(config_of(folder, num_frames=frames))
