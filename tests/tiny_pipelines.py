"""Tiny random pipelines in the released layouts, one builder per family."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    DiffusionPipeline,
    TextToVideoSDPipeline,
    UNet3DConditionModel,
)

from halovid.world_training.text import build_tokenizer
from tiny_frame_pipelines import MORE_VIDEO
from tiny_image_pipelines import IMAGES
from tiny_parts import TEXT_WIDTH, TinyFamily, clip_encoder, clip_tokenizer, picture_vae, t5_encoder
from tiny_video_pipelines import VIDEO
from tiny_wan_pipelines import WAN


def tiny_cogvideox() -> DiffusionPipeline:
    """CogVideoX 5B: rotary positions, v-prediction with zero SNR and a shifted SNR."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text_encoder = t5_encoder(tokenizer)
    kinds = ("CogVideoXDownBlock3D",) * 4, ("CogVideoXUpBlock3D",) * 4
    vae = AutoencoderKLCogVideoX(
        down_block_types=kinds[0],
        up_block_types=kinds[1],
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        scaling_factor=0.7,
    )
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=TEXT_WIDTH,
        num_layers=2,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        use_rotary_positional_embeddings=True,
    )
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    return CogVideoXPipeline(tokenizer, text_encoder, vae, transformer, scheduler)


def tiny_text_to_video_sd() -> DiffusionPipeline:
    """ModelScope's text-to-video: a 3D UNet that predicts epsilon."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    text_encoder = clip_encoder(tokenizer)
    vae = picture_vae()
    unet = UNet3DConditionModel(
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return TextToVideoSDPipeline(vae, text_encoder, tokenizer, unet, scheduler)


# the pipeline's class, or "class-variant" -> what it is tested with
TINY: dict[str, TinyFamily] = {
    "CogVideoXPipeline": TinyFamily(tiny_cogvideox, (9, 32, 48)),
    "TextToVideoSDPipeline": TinyFamily(tiny_text_to_video_sd, (5, 32, 48)),
    **WAN,
    **VIDEO,
    **MORE_VIDEO,
    **IMAGES,
}

# of each kind one, so that the ordinary tests take minutes: flows with and without guidance as an input, v and epsilon,
# latents in tokens and in squares, texts in lists. `make test-families` takes all.
OF_EACH_KIND = (
    "CogVideoXPipeline",
    "FluxPipeline",
    "HunyuanVideoPipeline",
    "LTXPipeline",
    "MochiPipeline",
    "StableDiffusionXLPipeline",
    "TextToVideoSDPipeline",
    "WanPipeline",
    "ZImagePipeline",
)


def chosen(names: Iterable[str]) -> list[str]:
    """Those of these keys of TINY that are tested now: all if HALOVID_ALL_FAMILIES is set, else one of each kind."""
    return sorted(name for name in names if name in OF_EACH_KIND or os.environ.get("HALOVID_ALL_FAMILIES"))
