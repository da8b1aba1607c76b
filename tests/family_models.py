"""Tiny pipelines of every family, opened by us and called as their plain pipelines."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.loaders import PeftAdapterMixin
from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.config.sections import LoraOptions
from halovid.models import PARTS, DiffusionModel, Part, load_family, load_model
from tiny_pipelines import TINY

PROMPTS = ["a small red circle moves left", "a large blue square stays and a tiny green triangle rises"]
NEGATIVE = "a plain red circle"
SEEDS = [3, 11]
STEPS = 4
LORA = LoraOptions(rank=2, alpha=2)


def pipeline_class(name: str) -> str:
    """The class of the pipeline that TINY names "class" or "class-variant"."""
    return name.split("-")[0]


def config_of(folder: Path, **changes: Any) -> GeneratorConfig:
    frames, height, width = TINY[folder.name].size
    sampling = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "negative_prompt": NEGATIVE}
    size = {"num_frames": frames, "height": height, "width": width}
    return GeneratorConfig(model=str(folder), **sampling | size | TINY[folder.name].settings | changes)


def open_tiny(
    folder: Path, parts: tuple[Part, ...] = PARTS, dtype: torch.dtype = torch.float32, **changes: Any
) -> DiffusionModel:
    return load_model(config_of(folder, **changes), parts, torch.device("cpu"), dtype)


def plain(folder: Path, adapter: Path | None = None, **changes: Any) -> Tensor:
    """Clips of the plain pipeline, called with the family's arguments: [B, F, H, W, 3] in 0..1."""
    name = pipeline_class(folder.name)
    pipe = getattr(diffusers, name).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    family = load_family(name, str(folder))
    if adapter is not None:
        load_adapter(pipe, family.denoisers, adapter)
    TINY[folder.name].prepare(pipe)
    config = config_of(folder, **changes)
    family.configure(pipe, config)
    negative: dict[str, Any] = {"negative_prompt": [config.negative_prompt] * len(PROMPTS)}
    if "negative_prompt" not in inspect.signature(pipe.__call__).parameters:
        negative = {"negative_prompt_embeds": pipe.encode_prompt(negative["negative_prompt"])[0]}
    made = pipe(
        prompt=list(PROMPTS),  # some pipelines write into the list
        **negative,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="np",
        return_dict=False,
        **family.call(config) | TINY[folder.name].call,
    )[0]
    clips = torch.as_tensor(made)
    return clips if clips.ndim == 5 else clips[:, None]  # pictures are clips of one frame


def load_adapter(pipe: Any, denoisers: tuple[str, ...], adapter: Path) -> None:
    """Loads an adapter as a user of diffusers would.

    Where diffusers 0.42 forgot a part of its loader, it is added here: the network's (UNet3DConditionModel), or the
    pipeline's.
    """
    for name in denoisers:
        network = getattr(pipe, name)
        if not hasattr(network, "load_lora_adapter"):
            network.__class__ = type(type(network).__name__, (type(network), PeftAdapterMixin), {})
        if not hasattr(pipe, "load_lora_weights"):
            network.load_lora_adapter(adapter, prefix=name, use_safetensors=True)
    if hasattr(pipe, "load_lora_weights"):
        pipe.load_lora_weights(adapter)


def pixels(video: Tensor) -> Tensor:
    """[B, 3, F, H, W] in -1..1 as a pipeline gives clips."""
    return video.permute(0, 2, 3, 4, 1) / 2 + 0.5


def unpacked(model: DiffusionModel, latents: Tensor, shape: torch.Size) -> Tensor:
    """Latents in the pipeline's own layout as [B, C, T, h, w].

    Some pipelines have another layout within their call than the one that they give: a token per cell, or the frames of
    all clips one after the other.
    """
    if latents.ndim == 4 and shape[2] > 1:
        return latents.unflatten(0, (-1, shape[2])).transpose(1, 2)
    if latents.ndim == 3 and latents.shape[2] == shape[1]:
        return latents.transpose(1, 2).unflatten(2, shape[2:])
    return model._family.unpack(model._pipe, latents, (shape[2], shape[3], shape[4]))
