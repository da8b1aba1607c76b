"""LTX-Video from 0.9.0 on: a flow over tokens of 32 x 32 pixels and 8 frames, whose positions are seconds and pixels.

Autoencoders from 0.9.1 on decode at a noise level; clips are decoded at level 0, without new noise, which is the
default of the pipelines' calls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.models.family import Family, call_arguments, causal_geometry, encode_with_mask, read_settings


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    """`LTXPipeline` tells of a latent frame when it would start if the first were as long as the others."""
    return _predict_at(pipe, network, noisy, timestep, tensors, config, first_frame=0)


def _predict_conditioned(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    """`LTXConditionPipeline` counts the first latent frame as the single frame that it is."""
    return _predict_at(pipe, network, noisy, timestep, tensors, config, 1 - pipe.vae_temporal_compression_ratio)


def _predict_at(
    pipe: Any,
    network: Any,
    noisy: Tensor,
    timestep: Tensor,
    tensors: dict[str, Tensor],
    config: GeneratorConfig,
    first_frame: int,
) -> Tensor:
    """Predicts with the first latent frame at a number of pixel frames, or at 0 if that is below."""
    shape = noisy.shape[2:]
    frames, rows, columns = (torch.arange(size, device=noisy.device, dtype=torch.float32) for size in shape)
    seconds = (frames * pipe.vae_temporal_compression_ratio + first_frame).clamp(min=0) / config.fps
    pixels = pipe.vae_spatial_compression_ratio
    positions = torch.meshgrid(seconds, rows * pixels, columns * pixels, indexing="ij")
    output = network(
        noisy.flatten(2).transpose(1, 2),
        tensors["prompt_embeds"],
        timestep,
        tensors["prompt_attention_mask"],
        video_coords=torch.stack(positions).flatten(1).expand(len(noisy), -1, -1),
        return_dict=False,
    )[0]
    return output.transpose(1, 2).unflatten(2, shape)


def _unpack(pipe: Any, latents: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """`LTXPipeline` gives tokens, `LTXConditionPipeline` has unpacked them already."""
    return latents.transpose(1, 2).unflatten(2, shape) if latents.ndim == 3 else latents


def _statistics(vae: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents, [1, C, 1, 1, 1]: buffers of this autoencoder."""
    shape = (1, -1, 1, 1, 1)
    return vae.latents_mean.view(shape), vae.latents_std.view(shape) / vae.config.scaling_factor


def _encode_video(vae: Any, video: Tensor) -> Tensor:
    mean, std = _statistics(vae)
    return (vae.encode(video).latent_dist.mode() - mean) / std


def _decode_video(vae: Any, latents: Tensor) -> Tensor:
    mean, std = _statistics(vae)
    level = latents.new_zeros(len(latents)) if vae.config.timestep_conditioning else None
    with _noise_of_the_decoder(vae):
        return vae.decode(latents * std + mean, level, return_dict=False)[0]


@contextmanager
def _noise_of_the_decoder(vae: Any) -> Iterator[None]:
    """A context in which the decoder of 0.9.1, which draws noise from torch's global generator, always draws the same.

    So pixels are a function of the latents; afterwards the global generator is where it was.
    """
    if not any(vae.config.decoder_inject_noise):
        yield
        return
    with torch.random.fork_rng([vae.device] if vae.device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


def _problem(folder: Path, config: GeneratorConfig) -> str | None:
    scheduler = read_settings(folder, "scheduler/scheduler_config.json")
    if scheduler.get("shift_terminal") and config.num_inference_steps < 2:
        return "stretches its noise levels over several steps: generator.num_inference_steps must be 2 or more"
    return None


FAMILY = Family(
    encode=encode_with_mask,  # 128 tokens, or 256 for `LTXConditionPipeline`
    predict=_predict,
    geometry=causal_geometry,
    encode_video=_encode_video,
    decode_video=_decode_video,
    unpack=_unpack,
    call=lambda config: call_arguments(config) | {"frame_rate": config.fps},
    problem=_problem,
)
CONDITION = dataclasses.replace(FAMILY, predict=_predict_conditioned)
