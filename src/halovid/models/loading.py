"""Loading diffusers pipelines from folders and from the hub, component by component.

A component is refused unless its file holds exactly its weights: diffusers would fill in missing ones with random
numbers.
"""

from __future__ import annotations

import importlib
import json
import pickle
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import huggingface_hub
import torch
import transformers
from safetensors import SafetensorError

from halovid.config.run import GeneratorConfig
from halovid.store.errors import InputError, shorten
from halovid.store.files import hash_folder
from halovid.store.hub import cached_commit, hub_commit
from halovid.store.lazy import load_named
from halovid.store.troubles import raise_shortage

# `generator.model` -> function that returns its folder
PACKAGED = {"world": "halovid.world:packaged_pipeline", "panorama": "halovid.world:packaged_panorama"}
INDEX = "model_index.json"
# what readers of model files raise when a file is missing, cut off, of another kind or of another model
_UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, IndexError, ImportError),
    *(SafetensorError, pickle.UnpicklingError),
)


@contextmanager
def readable(subject: str, advice: str) -> Iterator[None]:
    """A context in which whatever an unreadable model file raises becomes an InputError about `subject`.

    Errors because the machine lacks something, such as memory, stay what they are.
    """
    try:
        yield
    except InputError:
        raise
    except _UNREADABLE as error:
        raise_shortage(error)
        reason = " ".join(str(error).split())
        raise InputError(f"{subject} can't be read ({type(error).__name__}: {reason[:300]}); {advice}") from error


def model_identity(config: GeneratorConfig) -> str:
    """What identifies a model in a fingerprint: a hash of its folder's files, or its name and commit on the hub.

    The commit is that of the copy on this machine, or else the hub's. `weights` that it starts from are hashed as well.

    Raises:
        InputError: there is no such model or no such folder of weights, or no copy here and the hub can't be asked. So
            a misspelt name is reported before results of another model are set aside.
    """
    check_weights(config)
    identity = _pipeline_identity(config)
    return f"{identity} with {hash_folder(config.weights)}" if config.weights else identity


def check_weights(config: GeneratorConfig) -> None:
    """Raises InputError when `generator.weights` names no folder."""
    if config.weights is not None and not config.weights.is_dir():
        raise InputError(
            f"generator.weights is {shorten(str(config.weights))!r}, which is no folder; give one that `halovid align` "
            f"wrote, as RUN/align/weights"
        )


def _pipeline_identity(config: GeneratorConfig) -> str:
    """The identity of the pipeline alone."""
    folder = _local_folder(config.model)
    if folder is not None:
        return hash_folder(folder)
    try:
        return f"{config.model}@{hub_commit(config.model, config.revision, 'generator.model')}"
    except InputError as error:
        raise InputError(f"{error}; {advice()}") from error


def has_settings_here(config: GeneratorConfig) -> bool:
    """Whether the settings of the configured model can be looked at without a download."""
    if _local_folder(config.model) is not None:
        return True
    commit = cached_commit(config.model, config.revision)
    if commit is None:
        return False
    return isinstance(huggingface_hub.try_to_load_from_cache(config.model, INDEX, revision=commit), str)


def find_pipeline(config: GeneratorConfig) -> tuple[Path, dict[str, Any]]:
    """The folder of the configured pipeline, downloaded if need be, and what its index says.

    Raises:
        InputError: there is no such pipeline, or its index is damaged.
    """
    with _quiet(), readable(f"generator.model {config.model!r}", advice()):
        folder = _local_folder(config.model) or Path(
            diffusers.DiffusionPipeline.download(
                config.model,
                revision=cached_commit(config.model, config.revision) or config.revision,
                use_safetensors=True,
            )
        )
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
            raise ValueError(f"{INDEX} names no pipeline class")
    return folder, index


def components(index: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Name -> library and class of each component that a pipeline has."""
    pairs = {name: value for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    return {name: (library, kind) for name, (library, kind) in pairs.items() if library is not None}


def load_pipeline(
    folder: Path,
    index: dict[str, Any],
    names: Collection[str],
    dtypes: dict[str, torch.dtype],
    described: Collection[str] = (),
) -> diffusers.DiffusionPipeline:
    """The pipeline with the named components, frozen and in evaluation mode; the others are None.

    Args:
        names: the components to load.
        dtypes: the number format of each component; float32 if it is not in here.
        described: components that are None in the end, but tell the pipeline their settings while it is put together.

    Raises:
        InputError: a file can't be read, or holds other weights than its component has.
    """
    loaded: dict[str, Any] = {}  # component -> model, or None; all others are loaded by diffusers itself
    for name, (library, class_name) in components(index).items():
        if name not in names:
            loaded[name] = empty_component(folder, index, name) if name in described else None
        elif (model := _model_class(library, class_name)) is not None:
            loaded[name] = load_component(folder / name, model, dtypes.get(name, torch.float32))
    with _quiet(), readable(f"the pipeline {folder}", advice()):
        pipe = getattr(diffusers, index["_class_name"]).from_pretrained(folder, use_safetensors=True, **loaded)
    for name in described:
        setattr(pipe, name, None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_component(folder: Path, model: Any, dtype: torch.dtype) -> torch.nn.Module:
    """A model of diffusers or transformers from its folder, frozen and in evaluation mode.

    Raises:
        InputError: a file can't be read, or holds other weights than the model has.
    """
    with _quiet(), readable(f"the model {folder}", advice()):
        loaded, report = model.from_pretrained(folder, dtype=dtype, use_safetensors=True, output_loading_info=True)
    for problem, verb in (("missing_keys", "lacks"), ("unexpected_keys", "has"), ("mismatched_keys", "has misshapen")):
        keys = sorted(str(key) for key in report[problem])
        if keys:
            unknown = f" that no {model.__name__} of its config.json has" if problem == "unexpected_keys" else ""
            raise InputError(
                f"the model {folder} {verb} {len(keys)} weights{unknown} ({', '.join(keys[:3])}"
                f"{', ...' if len(keys) > 3 else ''}): its files do not belong together; {advice()}"
            )
    frozen: torch.nn.Module = loaded.requires_grad_(False).eval()
    return frozen


def empty_component(folder: Path, index: dict[str, Any], name: str) -> Any:
    """A component without weights, to read its settings, including the defaults of those that its file leaves out."""
    library, class_name = components(index)[name]
    with _quiet(), readable(f"the settings in {folder / name}", advice()), torch.device("meta"):
        model_class = getattr(importlib.import_module(library), class_name)
        return model_class.from_config(model_class.load_config(folder / name))


def _model_class(library: str, class_name: str) -> Any:
    """The class of a component that holds weights; None for tokenizers, schedulers and pipelines' own helpers."""
    if library not in ("diffusers", "transformers"):
        return None
    component = getattr(importlib.import_module(library), class_name, None)
    return component if isinstance(component, type) and issubclass(component, torch.nn.Module) else None


def advice() -> str:
    """What to do about a model that can't be read."""
    return (
        f"give {', '.join(map(repr, PACKAGED))}, a folder that a diffusers pipeline's save_pretrained wrote, with its "
        f"weights as safetensors, or the id of one on the hub"
    )


def _local_folder(model: str) -> Path | None:
    """The folder that a name stands for, None for the id of one on the hub."""
    if model in PACKAGED:
        packaged: Path = load_named(PACKAGED[model])()
        return packaged
    folder = Path(model)
    return folder if folder.is_dir() else None


@contextmanager
def _quiet() -> Iterator[None]:
    """A context in which diffusers and transformers print nothing: what matters is reported as an InputError."""
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
