"""Text-to-video models: the protocol, and one file per family."""

from __future__ import annotations

from pathlib import Path

import torch

from halovid.config.run import GeneratorConfig, RunConfig
from halovid.models.base import ADAPTER, Generator, Sampler
from halovid.models.wan import WanGenerator
from halovid.store.files import hash_folder
from halovid.store.lazy import load_named
from halovid.store.runtime import resolve_device, resolve_dtype

__all__ = ["ADAPTER", "FAMILIES", "Generator", "Sampler", "load_generator", "model_identity", "open_generator"]

FAMILIES = {"wan": WanGenerator}
PACKAGED = {"world": "halovid.world:packaged_pipeline"}  # model in a recipe -> function that gives its folder


def load_generator(config: GeneratorConfig, device: torch.device, dtype: torch.dtype) -> Generator:
    """The configured model, frozen, in evaluation mode, on `device`."""
    return FAMILIES[config.family](_resolve(config.model), config, device, dtype)


def open_generator(config: RunConfig) -> Generator:
    """The run's model on the run's device, in its number format."""
    device = resolve_device(config.device)
    return load_generator(config.generator, device, resolve_dtype(config.dtype, device))


def model_identity(config: GeneratorConfig) -> str:
    """A hash of a local pipeline folder's files; the name itself for a model of the hub."""
    folder = Path(_resolve(config.model))
    if not folder.is_dir():
        return config.model
    return hash_folder(folder)


def _resolve(model: str) -> str:
    """The folder of a packaged model, else the name as it is."""
    return str(load_named(PACKAGED[model])()) if model in PACKAGED else model
