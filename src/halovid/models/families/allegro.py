"""Allegro: a transformer over the latents of an autoencoder that works in overlapping tiles only: epsilon.

Diffusers 0.42 has no loader of adapters for it: a trained adapter is used after `halovid merge`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.maths.grid import LatentGeometry
from halovid.models.family import (
    Family,
    call_arguments,
    clip_by_clip,
    decode_clips,
    encode_clips,
    encode_with_mask,
    read_settings,
    without_prompt,
)

# AutoencoderKLAllegro's tiles: frames, and the default of sides; how far the next tile overlaps, in time, height, width
_FRAMES, _SIDE = 24, 320
_OVERLAPS = (8, 120, 80)


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    frames, height, width = noisy.shape[2:]
    stride = pipe.vae_scale_factor_spatial
    rotary = pipe._prepare_rotary_positional_embeddings(
        len(noisy), height * stride, width * stride, frames, noisy.device
    )
    return network(
        noisy,
        tensors["prompt_embeds"].unsqueeze(1),
        timestep,
        encoder_attention_mask=tensors["prompt_attention_mask"],
        image_rotary_emb=rotary,
        return_dict=False,
    )[0]


def _geometry(vae: Any) -> LatentGeometry:
    return LatentGeometry(vae.config.temporal_compression_ratio, vae.spatial_compression_ratio, False)


def _encode_video(vae: Any, video: Tensor) -> Tensor:
    vae.enable_tiling()
    return encode_clips(vae, video)


def _decode_video(vae: Any, latents: Tensor) -> Tensor:
    """The autoencoder gives time before channels."""
    vae.enable_tiling()
    return decode_clips(vae, latents).transpose(1, 2)


def _call(config: GeneratorConfig) -> dict[str, Any]:
    """Texts are taken as they are: cleaning them would depend on the packages that are installed."""
    return call_arguments(config) | {"clean_caption": False}


def _problem(folder: Path, config: GeneratorConfig) -> str | None:
    settings = read_settings(folder, "vae/config.json")
    side = settings.get("sample_size", _SIDE)
    size, tiles = (config.num_frames, config.height, config.width), (_FRAMES, side, side)
    rules = []
    for name, length, tile, overlap in zip(("num_frames", "height", "width"), size, tiles, _OVERLAPS, strict=True):
        if length < tile or (length - tile) % (tile - overlap):
            rules.append(f"generator.{name} is {length}, not {tile} + {tile - overlap} * k")
    return f"is decoded in whole tiles: {'; '.join(rules)}" if rules else None


FAMILY = Family(
    encode=encode_with_mask,  # 512 tokens of T5
    predict=_predict,
    geometry=_geometry,
    side_multiple=2,
    encode_video=clip_by_clip(_encode_video),  # its tiles hold no more
    decode_video=clip_by_clip(_decode_video),
    call=_call,
    arguments=without_prompt,
    problem=_problem,
)
