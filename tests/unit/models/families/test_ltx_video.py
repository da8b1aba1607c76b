"""The decoder of LTX-Video 0.9.1 draws noise; clips are decoded with the same noise every time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from family_models import open_tiny
from halovid.models import DiffusionModel
from tiny_pipelines import TINY

NAME = "LTXPipeline-0.9.1"


@pytest.fixture(scope="module")
def noisy_decoder(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    """A model whose decoder's noise has weights other than zero, unlike that of a new one."""
    pipe = TINY[NAME].build()
    scales = [value for name, value in pipe.vae.named_parameters() if "per_channel_scale" in name]
    for value in scales:
        torch.nn.init.normal_(value)
    assert scales
    folder = tmp_path_factory.mktemp("pipelines") / NAME
    pipe.save_pretrained(folder)
    return open_tiny(folder, ("autoencoder",))


def test_the_decoder_draws_noise_by_itself(noisy_decoder: DiffusionModel) -> None:
    latents, level = torch.randn(1, 8, 2, 2, 3), torch.zeros(1)
    one, other = (noisy_decoder._autoencoder().decode(latents, level, return_dict=False)[0] for _ in range(2))
    assert not torch.allclose(one, other, atol=1e-2)


def test_pixels_are_a_function_of_the_latents(noisy_decoder: DiffusionModel) -> None:
    latents = torch.randn(2, 8, 2, 2, 3)
    both = noisy_decoder.decode_video(latents)
    assert torch.equal(noisy_decoder.decode_video(latents), both)
    torch.testing.assert_close(noisy_decoder.decode_video(latents[1:]), both[1:], rtol=1e-4, atol=1e-4)


def test_decoding_leaves_the_global_generator_where_it_was(noisy_decoder: DiffusionModel) -> None:
    latents = torch.randn(1, 8, 2, 2, 3)
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    noisy_decoder.decode_video(latents)
    assert torch.equal(torch.randn(3), expected)


def test_positions_are_seconds(tmp_path: Path) -> None:
    """The same latents at another frame rate are another clip to the network."""
    folder = tmp_path / NAME
    TINY[NAME].build().save_pretrained(folder)
    slow, fast = (open_tiny(folder, fps=fps) for fps in (8.0, 24.0))
    texts, level = slow.encode_prompts(["a circle"]), torch.tensor([0.5])
    latents = torch.randn(1, 8, 3, 2, 3)
    assert not torch.allclose(slow.predict(latents, level, texts), fast.predict(latents, level, texts), atol=1e-4)
