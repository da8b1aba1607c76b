"""Which model a recipe means: folders, packaged names, ids on the hub and their commits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import halovid.world
from halovid.config.packaged import PACKAGED_SIZES
from halovid.config.run import GeneratorConfig
from halovid.models import FAMILIES, check_model, load_family, model_identity
from halovid.models.base import find_geometry
from halovid.models.loading import INDEX, PACKAGED
from halovid.store.errors import InputError
from halovid.store.lazy import load_named
from tiny_pipelines import TINY

HUB = "somebody/a-model"


def config(model: Any, **changes: Any) -> GeneratorConfig:
    return GeneratorConfig(model=str(model), **changes)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the cache (revision -> commit) and the hub know of the model."""
    known: dict[str, Any] = {"cache": {}, "hub": None, "asked": []}

    def snapshot_download(name: str, revision: str | None = None, local_files_only: bool = False) -> str:
        assert local_files_only, "to tell a model from others nothing is downloaded"
        if revision not in known["cache"]:
            raise OSError("not downloaded")
        return f"/cache/snapshots/{known['cache'][revision]}"

    def model_info(name: str, revision: str | None = None, timeout: float | None = None) -> Any:
        known["asked"].append(revision)
        if known["hub"] is None:
            raise OSError("no network")
        return huggingface_hub.ModelInfo(id=name, sha=known["hub"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "model_info", model_info)
    return known


def test_a_model_of_the_hub_is_its_commit(hub: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"generator.model '{HUB}' is neither a folder nor .* can't be asked"):
        model_identity(config(HUB))
    hub["hub"] = "abc"
    assert model_identity(config(HUB, revision="v2")) == f"{HUB}@abc"
    asked = len(hub["asked"])
    hub["cache"] = {"v2": "abc", None: "def"}
    assert model_identity(config(HUB, revision="v2")) == f"{HUB}@abc"
    assert model_identity(config(HUB)) == f"{HUB}@def"
    assert len(hub["asked"]) == asked, "the copy on this machine is what counts"


def test_a_folder_is_what_its_files_are(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text("{}")
    first = model_identity(config(tmp_path))
    (tmp_path / INDEX).write_text("[]")
    assert model_identity(config(tmp_path)) != first
    assert model_identity(config("world")) == model_identity(config("world"))


def test_the_packaged_models_are_those_whose_sizes_are_known_each_in_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PACKAGED.keys() == PACKAGED_SIZES.keys()
    monkeypatch.setattr(halovid.world, "PANORAMA_PIPELINE", tmp_path)
    folders = {load_named(name)() for name in PACKAGED.values()}
    assert len(folders) == len(PACKAGED) and all(folder.is_dir() for folder in folders)


def test_a_packaged_model_that_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halovid.world, "PANORAMA_PIPELINE", tmp_path / "none")
    for look in (model_identity, check_model):
        with pytest.raises(InputError, match=r"'panorama', and .* comes without .*: name 'world', or train it with"):
            look(config("panorama"))


def test_a_pipeline_that_nothing_drives_is_told_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"_class_name": "OtherPipeline"}))
    with pytest.raises(InputError, match="is of class OtherPipeline; those that can be driven are WanPipeline, "):
        check_model(config(tmp_path))
    for name in FAMILIES:
        assert load_family(name, "").denoisers


@pytest.mark.parametrize(
    ("pipeline", "file", "changes", "words"),
    [
        ("WanPipeline", INDEX, {"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "has two transformers"),
        ("CogVideoXPipeline", "transformer/config.json", {"patch_size_t": 2}, "is CogVideoX 1.5"),
    ],
)
def test_relatives_of_a_family_that_it_does_not_drive(
    pipeline: str, file: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    TINY[pipeline].build().save_pretrained(tmp_path)
    frames, height, width = TINY[pipeline].size
    size = {"num_frames": frames, "height": height, "width": width}
    check_model(config(tmp_path, **size))
    path = tmp_path / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=words):
        check_model(config(tmp_path, **size))
    path.unlink()
    with pytest.raises(InputError, match="can't be read"):
        check_model(config(tmp_path, **size))


def test_a_family_can_refuse_settings_that_its_pipeline_would_ignore(tmp_path: Path) -> None:
    """A pipeline of pictures makes one frame, whatever a recipe asks for."""

    def only_pictures(folder: Path, config: GeneratorConfig) -> str | None:
        return None if config.num_frames == 1 else f"makes pictures: generator.num_frames is {config.num_frames}, not 1"

    name = "TextToVideoSDPipeline"
    TINY[name].build().save_pretrained(tmp_path)
    family = dataclasses.replace(load_family(name, ""), problem=only_pictures)
    index = json.loads((tmp_path / INDEX).read_text(encoding="utf-8"))
    find_geometry(family, tmp_path, index, config(tmp_path, num_frames=1))
    with pytest.raises(InputError, match=r"makes pictures: generator\.num_frames is 13, not 1$"):
        find_geometry(family, tmp_path, index, config(tmp_path, num_frames=13))
