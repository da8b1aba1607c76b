"""What holds for every family: it is opened in parts, and a damaged pipeline is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from family_models import SEEDS, config_of, open_tiny
from halovid.models import PARTS, DiffusionModel, Part, load_model
from halovid.records import Conditioning
from halovid.store.errors import InputError

pytest_plugins = ["family_fixtures"]


def test_conditionings_survive_the_disk(conditioning: Conditioning, model: DiffusionModel, tmp_path: Path) -> None:
    for row in range(2):
        conditioning.rows([row]).save(tmp_path / f"{row}.safetensors")
    loaded = Conditioning.cat([Conditioning.load(tmp_path / f"{row}.safetensors") for row in range(2)])
    assert loaded.tensors.keys() == conditioning.tensors.keys()
    for name, value in conditioning.tensors.items():
        assert torch.equal(loaded.tensors[name], value)
    states = loaded.text_states()
    assert states.shape[0] == 2 and states.ndim == 3 and states.dtype == torch.float32


USES: dict[Part, Callable[[DiffusionModel, Conditioning, Tensor], Any]] = {
    "text": lambda model, texts, latents: model.encode_prompts(["a"]).tensors,
    "autoencoder": lambda model, texts, latents: model.decode_video(latents),
    "denoiser": lambda model, texts, latents: model.predict(latents, torch.tensor([0.5, 0.5]), texts),
}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_does_alone_what_it_does_beside_the_others_and_says_when_it_is_not_there(
    part: Part, folder: Path, model: DiffusionModel, conditioning: Conditioning, samples: Tensor
) -> None:
    alone = open_tiny(folder, (part,))
    expected = USES[part](model, conditioning, samples)
    torch.testing.assert_close(USES[part](alone, conditioning, samples), expected)
    for other in PARTS:
        if other != part:
            with pytest.raises(RuntimeError, match=f"this needs its {other}"):
                USES[other](alone, conditioning, samples)


def test_a_model_without_text_encoders_samples_with_what_they_made(
    folder: Path, model: DiffusionModel, conditioning: Conditioning, samples: Tensor
) -> None:
    config = config_of(folder)
    parts: tuple[Part, ...] = ("denoiser", "autoencoder")
    again = load_model(config, parts, torch.device("cpu"), torch.float32, model.negative())
    assert torch.equal(again.sample(conditioning, SEEDS), samples)


@pytest.mark.parametrize("component", ["text_encoder", "vae", "denoiser"])
@pytest.mark.parametrize("damage", ["lacks", "has"])
def test_weights_that_are_missing_or_left_over_are_named(
    component: str, damage: str, folder: Path, model: DiffusionModel, tmp_path: Path
) -> None:
    name = next(iter(model.denoisers)) if component == "denoiser" else component
    broken = copytree(folder, tmp_path / folder.name)
    [file] = (broken / name).glob("*.safetensors")
    tensors = load_file(file)
    key = max((key for key in tensors if key.endswith("weight")), key=len)
    if damage == "lacks":
        del tensors[key]
    else:
        key = "left.over.weight"
        tensors[key] = torch.zeros(2)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"{name} {damage} 1 weights.*{key.split('.')[-2]}"):
        open_tiny(broken)


@pytest.mark.parametrize("damage", ["cut", "text", "pickle only", "no settings", "index"])
def test_a_damaged_pipeline_is_one_sentence(damage: str, folder: Path, tmp_path: Path) -> None:
    broken = copytree(folder, tmp_path / folder.name)
    [weights] = (broken / "vae").glob("*.safetensors")
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "text":
        weights.write_text("no weights")
    elif damage == "pickle only":
        torch.save({}, weights.with_suffix(".bin"))
        weights.unlink()
    elif damage == "no settings":
        (broken / "vae" / "config.json").write_text("{")
    else:
        (broken / "model_index.json").write_text("[]")
    with pytest.raises(InputError, match="can't be read") as raised:
        open_tiny(broken)
    assert "\n" not in str(raised.value)
