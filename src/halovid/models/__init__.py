"""Diffusion models: one class for all pipelines, and one `Family` value for each pipeline class, imported when used."""

from __future__ import annotations

from collections.abc import Collection

import torch

from halovid.config.run import GeneratorConfig, RunConfig
from halovid.models.base import PARTS, DiffusionModel, Part, Sampler, find_geometry
from halovid.models.family import Family
from halovid.models.loading import check_weights, find_pipeline, has_settings_here, model_identity
from halovid.records import Conditioning
from halovid.store.errors import InputError
from halovid.store.lazy import load_named
from halovid.store.runtime import resolve_device, resolve_dtype

__all__ = [
    "FAMILIES",
    "PARTS",
    "DiffusionModel",
    "Part",
    "Sampler",
    "check_model",
    "load_family",
    "load_model",
    "model_identity",
    "open_model",
]

# pipeline class, as model_index.json names it -> its family
FAMILIES = {
    "WanPipeline": "halovid.models.families.wan:FAMILY",
    "CogVideoXPipeline": "halovid.models.families.cogvideox:FAMILY",
    "TextToVideoSDPipeline": "halovid.models.families.text_to_video_sd:FAMILY",
    "SkyReelsV2Pipeline": "halovid.models.families.skyreels_v2:FAMILY",
    "LTXPipeline": "halovid.models.families.ltx_video:FAMILY",
    "LTXConditionPipeline": "halovid.models.families.ltx_video:CONDITION",
    "HunyuanVideoPipeline": "halovid.models.families.hunyuan_video:FAMILY",
    "HunyuanVideo15Pipeline": "halovid.models.families.hunyuan_video_15:FAMILY",
    "MochiPipeline": "halovid.models.families.mochi:FAMILY",
    "SanaVideoPipeline": "halovid.models.families.sana_video:FAMILY",
    "AnimateDiffPipeline": "halovid.models.families.animatediff:FAMILY",
    "LattePipeline": "halovid.models.families.latte:FAMILY",
    "AllegroPipeline": "halovid.models.families.allegro:FAMILY",
    "StableDiffusionPipeline": "halovid.models.families.stable_diffusion:FAMILY",
    "StableDiffusionXLPipeline": "halovid.models.families.stable_diffusion_xl:FAMILY",
    "StableDiffusion3Pipeline": "halovid.models.families.stable_diffusion_3:FAMILY",
    "FluxPipeline": "halovid.models.families.flux:FAMILY",
    "Flux2KleinPipeline": "halovid.models.families.flux2_klein:FAMILY",
    "QwenImagePipeline": "halovid.models.families.qwen_image:FAMILY",
    "ZImagePipeline": "halovid.models.families.z_image:FAMILY",
    "SanaPipeline": "halovid.models.families.sana:FAMILY",
    "PixArtSigmaPipeline": "halovid.models.families.pixart_sigma:FAMILY",
}


def open_model(config: RunConfig, parts: Collection[Part], negative: Conditioning | None = None) -> DiffusionModel:
    """The run's model on the run's device, in its number format, with the parts that are needed.

    Args:
        negative: see `DiffusionModel`.

    Raises:
        InputError: the pipeline can't be driven or read, or makes no clips of the configured size.
    """
    device = resolve_device(config.device)
    return load_model(config.generator, parts, device, resolve_dtype(config.dtype, device), negative)


def load_model(
    config: GeneratorConfig,
    parts: Collection[Part],
    device: torch.device,
    dtype: torch.dtype,
    negative: Conditioning | None = None,
) -> DiffusionModel:
    """A configured model with some of its parts; arguments and errors as of `open_model`."""
    folder, index = find_pipeline(config)
    family = load_family(index["_class_name"], config.model)
    return DiffusionModel(family, folder, index, config, parts, device, dtype, negative)


def check_model(config: GeneratorConfig) -> None:
    """Looks for a pipeline, and at its settings where they are on this machine; nothing is loaded or downloaded.

    Raises:
        InputError: there is none, or it can't be driven or read, or makes no clips of the configured size; or there is
            no folder of weights to start from.
    """
    check_weights(config)
    if not has_settings_here(config):
        model_identity(config)
    else:
        folder, index = find_pipeline(config)
        find_geometry(load_family(index["_class_name"], config.model), folder, index, config)


def load_family(pipeline: str, model: str) -> Family:
    """The family of a pipeline class; InputError for one that none drives."""
    if pipeline not in FAMILIES:
        raise InputError(
            f"generator.model {model!r} is of class {pipeline}; those that can be driven are {', '.join(FAMILIES)}"
        )
    family: Family = load_named(FAMILIES[pipeline])
    return family
