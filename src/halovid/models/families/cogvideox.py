"""CogVideoX 1.0 (2B, 5B): v-prediction, time before channels in its latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.maths.grid import LatentGeometry
from halovid.models.family import Family, read_settings


def _encode(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """Text states, padded to 226 tokens, all of which the model attends to."""
    return {"prompt_embeds": pipe.encode_prompt(prompts, do_classifier_free_guidance=False)[0]}


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    """The 5B has rotary positions, which the pipeline computes from the size in pixels; the 2B has none."""
    frames, height, width = noisy.shape[2:]
    rotary, stride = None, pipe.vae_scale_factor_spatial
    if network.config.use_rotary_positional_embeddings:
        rotary = pipe._prepare_rotary_positional_embeddings(height * stride, width * stride, frames, noisy.device)
    texts = tensors["prompt_embeds"]
    output = network(noisy.transpose(1, 2), texts, timestep, image_rotary_emb=rotary, return_dict=False)[0]
    return output.transpose(1, 2)


def _geometry(vae: Any) -> LatentGeometry:
    spatial = 2 ** (len(vae.config.block_out_channels) - 1)
    return LatentGeometry(int(vae.config.temporal_compression_ratio), spatial, causal_first_frame=True)


def _problem(folder: Path, config: GeneratorConfig) -> str | None:
    settings = read_settings(folder, "transformer/config.json")
    if settings.get("patch_size_t") is None:
        return None
    return "is CogVideoX 1.5, which takes latent frames in pairs; only CogVideoX 1.0 is driven so far"


FAMILY = Family(
    encode=_encode,
    predict=_predict,
    geometry=_geometry,
    frame_multiple=2,  # the decoder takes two latent frames at a time and reads an even number of them as another clip
    side_multiple=2,
    unpack=lambda pipe, latents, shape: latents.transpose(1, 2),
    problem=_problem,
)
