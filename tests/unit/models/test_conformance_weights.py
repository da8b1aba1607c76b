"""What holds for every family: its plain pipeline reads what a training has changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from family_models import LORA, SEEDS, open_tiny, pixels, plain
from halovid.models import DiffusionModel
from halovid.records import Conditioning
from halovid.store.errors import InputError

pytest_plugins = ["family_fixtures"]


def test_an_adapter_that_is_switched_off_changes_nothing(
    trained: tuple[DiffusionModel, Path], model: DiffusionModel, conditioning: Conditioning, samples: Tensor
) -> None:
    level = torch.tensor([0.3, 0.7])
    with torch.no_grad():
        before = model.predict(samples, level, conditioning)
        with trained[0].without_lora():
            torch.testing.assert_close(trained[0].predict(samples, level, conditioning), before)
        assert not torch.allclose(trained[0].predict(samples, level, conditioning), before, atol=1e-3)


def test_the_plain_pipeline_loads_the_adapter_and_samples_the_same(
    trained: tuple[DiffusionModel, Path], folder: Path, samples: Tensor, conditioning: Conditioning
) -> None:
    aligned = pixels(trained[0].decode_video(trained[0].sample(conditioning, SEEDS)))
    base = pixels(trained[0].decode_video(samples))
    assert (aligned - base).abs().max() > 1e-2, "the adapter changed nothing that could be compared"
    torch.testing.assert_close(plain(folder, trained[1]), aligned, rtol=1e-3, atol=1e-3)
    again = open_tiny(folder)
    again.load_weights(trained[1])
    torch.testing.assert_close(
        pixels(again.decode_video(again.sample(conditioning, SEEDS))), aligned, rtol=0, atol=1e-5
    )


def test_the_merged_pipeline_samples_the_same(
    trained: tuple[DiffusionModel, Path], folder: Path, conditioning: Conditioning, tmp_path: Path
) -> None:
    aligned = pixels(trained[0].decode_video(trained[0].sample(conditioning, SEEDS)))
    again = open_tiny(folder)
    again.load_weights(trained[1])
    again.save_merged(tmp_path / folder.name)
    torch.testing.assert_close(plain(tmp_path / folder.name), aligned, rtol=1e-3, atol=1e-3)
    assert not list(tmp_path.rglob("*lora*"))


def test_a_model_that_starts_from_trained_weights_is_that_model_and_can_be_trained_on(
    trained: tuple[DiffusionModel, Path], folder: Path, conditioning: Conditioning, samples: Tensor
) -> None:
    started, level = open_tiny(folder, weights=trained[1]), torch.tensor([0.3, 0.7])
    with torch.no_grad():
        expected = trained[0].predict(samples, level, conditioning)
        torch.testing.assert_close(started.predict(samples, level, conditioning), expected, rtol=1e-4, atol=1e-4)
        started.add_lora(LORA)
        with started.without_lora():
            torch.testing.assert_close(started.predict(samples, level, conditioning), expected, rtol=1e-4, atol=1e-4)


def test_whole_weights_go_out_and_back(folder: Path, tmp_path: Path, samples: Tensor) -> None:
    changed, other = open_tiny(folder, ("denoiser", "text")), open_tiny(folder, ("denoiser", "text"))
    [network] = changed.denoisers.values()
    for value in network.parameters():
        value.data += 0.1
    changed.save_weights(tmp_path)
    other.load_weights(tmp_path)
    [copied] = other.denoisers.values()
    for name, value in network.state_dict().items():
        assert torch.equal(value, copied.state_dict()[name]), name


def test_blocks_hold_most_of_the_denoiser(model: DiffusionModel) -> None:
    """Embedders of the input are left out: some have a size that no tiny model can change."""

    def count(modules: list[torch.nn.Module]) -> int:
        return sum(value.numel() for module in modules for value in module.parameters())

    assert len(model.blocks()) >= 2
    children = [named for network in model.denoisers.values() for named in network.named_children()]
    assert count(model.blocks()) > 0.3 * count([child for name, child in children if "embed" not in name])


def test_damaged_adapters_are_one_sentence(trained: tuple[DiffusionModel, Path], folder: Path, tmp_path: Path) -> None:
    [file] = trained[1].glob("*.safetensors")
    whole = file.read_bytes()
    for content in (b"", whole[:-7], whole[:20], b"{}" * 40):
        (tmp_path / file.name).write_bytes(content)
        with pytest.raises(InputError, match="no undamaged adapter of this model"):
            open_tiny(folder, ("denoiser",)).load_weights(tmp_path)
