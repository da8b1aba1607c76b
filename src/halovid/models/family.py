"""`Family`: what is particular about the pipelines of one class, as a value with a few functions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from halovid.config.run import GeneratorConfig
from halovid.maths.grid import LatentGeometry
from halovid.maths.noise import NoiseProcess
from halovid.models.scheduler_noise import noise_from_scheduler

# the ends of the names of attention and feed-forward layers in nearly all denoisers of diffusers
LORA_TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("net.0.proj", "net.2", "proj_mlp"),
)
Predict = Callable[[Any, nn.Module, Tensor, Tensor, dict[str, Tensor], GeneratorConfig], Tensor]


def call_arguments(config: GeneratorConfig) -> dict[str, Any]:
    """The arguments of most video pipelines' calls, besides prompts and seeds."""
    return {
        "num_frames": config.num_frames,
        "height": config.height,
        "width": config.width,
        "num_inference_steps": config.num_inference_steps,
        "guidance_scale": config.guidance_scale,
    }


def read_settings(folder: Path, file: str) -> dict[str, Any]:
    """What a JSON file in a pipeline's folder says; settings at their defaults may be missing."""
    settings: dict[str, Any] = json.loads((folder / file).read_text(encoding="utf-8"))
    return settings


def causal_geometry(autoencoder: Any) -> LatentGeometry:
    """The strides of a video autoencoder that tells them as its compression ratios and has a lone first frame."""
    return LatentGeometry(
        autoencoder.temporal_compression_ratio, autoencoder.spatial_compression_ratio, causal_first_frame=True
    )


def frame_geometry(autoencoder: Any) -> LatentGeometry:
    """The strides of an image autoencoder, which encodes each frame alone and halves its sides between its blocks."""
    return LatentGeometry(1, 2 ** (len(autoencoder.config.block_out_channels) - 1), causal_first_frame=False)


def encode_with_mask(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """The `encode` of pipelines that give text states of a fixed length, and which of them count."""
    states, mask, *_ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, device=pipe.device)
    return {"prompt_embeds": states, "prompt_attention_mask": mask}


def without_prompt(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The `arguments` of pipelines whose call has a text as the default of its negative prompt.

    They refuse that text beside tensors, unless prompt and negative prompt are given as None.
    """
    return tensors | {"prompt": None}


def latent_statistics(autoencoder: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation by which latents are normalised for the denoiser, [1, C or 1, 1, 1, 1] each.

    They are read from the autoencoder's config: latents_mean or shift_factor, latents_std and scaling_factor. A family
    whose autoencoder keeps them elsewhere brings its own `encode_video` and `decode_video`.
    """
    config = autoencoder.config
    mean = torch.tensor(config.get("latents_mean") or [config.get("shift_factor") or 0.0])
    std = torch.tensor(config.get("latents_std") or [1.0]) / (config.get("scaling_factor") or 1.0)
    device, shape = autoencoder.device, (1, -1, 1, 1, 1)
    return mean.view(shape).to(device), std.view(shape).to(device)


def encode_clips(autoencoder: Any, video: Tensor) -> Tensor:
    """The normalised latents [B, C, T, h, w] of clips by a video autoencoder: the mode of its posterior."""
    mean, std = latent_statistics(autoencoder)
    return (autoencoder.encode(video).latent_dist.mode() - mean) / std


def decode_clips(autoencoder: Any, latents: Tensor) -> Tensor:
    """The inverse of `encode_clips`."""
    mean, std = latent_statistics(autoencoder)
    return autoencoder.decode(latents * std + mean, return_dict=False)[0]


def clip_by_clip(function: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """An `encode_video` or `decode_video` that does each clip alone, for autoencoders that can't do several."""
    return lambda autoencoder, batch: torch.cat([function(autoencoder, clip) for clip in batch.split(1)])


def encode_frames(autoencoder: Any, video: Tensor) -> Tensor:
    """The normalised latents [B, C, F, h, w] of clips by an image autoencoder, which encodes each frame alone."""
    mean, std = latent_statistics(autoencoder)
    latents = autoencoder.encode(video.transpose(1, 2).flatten(0, 1)).latent_dist.mode()
    return (latents.unflatten(0, (len(video), -1)).transpose(1, 2) - mean) / std


def decode_frames(autoencoder: Any, latents: Tensor) -> Tensor:
    """The inverse of `encode_frames`."""
    mean, std = latent_statistics(autoencoder)
    pictures = (latents * std + mean).transpose(1, 2).flatten(0, 1)
    return autoencoder.decode(pictures, return_dict=False)[0].unflatten(0, (len(latents), -1)).transpose(1, 2)


def guide_classically(output: Tensor, negative_output: Tensor, scale: float) -> Tensor:
    """The output led away from that of the negative prompt: classifier-free guidance (arXiv 2207.12598)."""
    return negative_output + scale * (output - negative_output)


@dataclass(frozen=True)
class Family:
    """How the pipelines of one class are used.

    `pipe` below is the diffusers pipeline with the parts that are open; the others are None. It knows the strides of an
    autoencoder that is not open (`pipe.vae_scale_factor_spatial`); what it tells of other parts that are not open is a
    default of its class.

    Args:
        encode: (pipe, prompts) -> the tensors of `records.Conditioning`, by the argument names of the pipeline's call.
            One of them is `prompt_embeds`, [B, L, D]. If the network is told which of these tokens count, another is
            that mask, [B, L], with a name that ends in `mask`.
        predict: (pipe, network, noisy latents [B, C, T, h, w], timestep [B], tensors, config) -> the network's output,
            [B, C, T, h, w], without guidance. Training calls it, so it must not use `torch.no_grad`.
        geometry: autoencoder -> its strides. The autoencoder may have no weights.
        denoisers: names of the components that training changes.
        autoencoders: names of the components that encode and decode clips.
        lora_targets: the ends of the names of the layers that get a LoRA.
        frame_multiple: the number of latent frames, without a lone first one, must be a multiple of it.
        side_multiple: height and width in latent cells must be multiples of it.
        channels: network -> the number of channels C of its latents.
        encode_video: (autoencoder, clips [B, 3, F, H, W]) -> normalised latents [B, C, T, h, w].
        decode_video: the inverse of `encode_video`.
        unpack: (pipe, latents as the pipeline's call gives them, (T, h, w)) -> [B, C, T, h, w].
        call: config -> the arguments of the pipeline's call, besides prompts and seeds.
        configure: (pipe, config) -> None; sets on the pipeline what sampling needs and its call takes no argument for.
        arguments: tensors -> what the pipeline's call takes instead of them, where that is no tensor per prompt.
        encode_negative: `encode` for negative prompts; None where they are encoded as prompts are.
        guided: config -> whether sampling uses classifier-free guidance with a negative prompt; False where the
            guidance scale is an input of the network, which `predict` takes from the configuration.
        guide: (output, output for the negative prompt, guidance scale) -> the guided output.
        noise: scheduler -> the noise process.
        prepare: pipe -> None; may change an open denoiser in place, e.g. to make it faster, but not its output.
        problem: (the pipeline's folder, config) -> why this pipeline can't be used, or not with these settings, as the
            end of a sentence that begins with its name; None if it can.
    """

    encode: Callable[[Any, list[str]], dict[str, Tensor]]
    predict: Predict
    geometry: Callable[[Any], LatentGeometry]
    denoisers: tuple[str, ...] = ("transformer",)
    autoencoders: tuple[str, ...] = ("vae",)
    lora_targets: tuple[str, ...] = LORA_TARGETS
    frame_multiple: int = 1
    side_multiple: int = 1
    channels: Callable[[Any], int] = lambda network: network.config.in_channels
    encode_video: Callable[[Any, Tensor], Tensor] = encode_clips
    decode_video: Callable[[Any, Tensor], Tensor] = decode_clips
    unpack: Callable[[Any, Tensor, tuple[int, int, int]], Tensor] = lambda pipe, latents, shape: latents
    call: Callable[[GeneratorConfig], dict[str, Any]] = call_arguments
    configure: Callable[[Any, GeneratorConfig], None] = lambda pipe, config: None
    arguments: Callable[[dict[str, Tensor]], dict[str, Any]] = lambda tensors: tensors
    encode_negative: Callable[[Any, list[str]], dict[str, Tensor]] | None = None
    guided: Callable[[GeneratorConfig], bool] = lambda config: config.guidance_scale > 1
    guide: Callable[[Tensor, Tensor, float], Tensor] = guide_classically
    noise: Callable[[Any], NoiseProcess] = noise_from_scheduler
    prepare: Callable[[Any], None] = lambda pipe: None
    problem: Callable[[Path, GeneratorConfig], str | None] = lambda folder, config: None
