"""Tiny random pipelines of text-to-video families beyond the large flows, in the released layouts."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AnimateDiffPipeline,
    AutoencoderKLAllegro,
    AutoencoderKLWan,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    LattePipeline,
    LatteTransformer3DModel,
    MotionAdapter,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
    UNet2DConditionModel,
)
from transformers import Gemma2Config, Gemma2Model

from halovid.world_training.text import build_tokenizer
from tiny_parts import TEXT_WIDTH, TinyFamily, clip_encoder, clip_tokenizer, picture_vae, t5_encoder


def tiny_animatediff() -> DiffusionPipeline:
    """AnimateDiff: a Stable Diffusion and a motion adapter, as one network."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    unet = UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
    )
    adapter = MotionAdapter(
        block_out_channels=(8, 8),
        motion_layers_per_block=1,
        motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=2,
    )
    for parameter in adapter.parameters():  # a new adapter changes nothing
        parameter.data += 0.1 * torch.randn_like(parameter)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False, steps_offset=1
    )
    return AnimateDiffPipeline(picture_vae(), clip_encoder(tokenizer), tokenizer, unet, adapter, scheduler)


def tiny_latte() -> DiffusionPipeline:
    """Latte: epsilon with a learned variance, four frames instead of sixteen."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    transformer = LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=16,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        caption_channels=TEXT_WIDTH,
        video_length=4,
    )
    scheduler = DDIMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    return LattePipeline(tokenizer, t5_encoder(tokenizer), picture_vae(), transformer, scheduler)


def tiny_allegro() -> DiffusionPipeline:
    """Allegro: an autoencoder that works in tiles of 24 frames and, here, 128 x 128 pixels; a sampler with noise."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    vae = AutoencoderKLAllegro(block_out_channels=(2,) * 4, layers_per_block=1, norm_num_groups=1, sample_size=128)
    transformer = AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        cross_attention_dim=24,
        sample_height=16,
        sample_width=16,
        sample_frames=6,
        caption_channels=TEXT_WIDTH,
    )
    scheduler = EulerAncestralDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return AllegroPipeline(tokenizer, t5_encoder(tokenizer), vae, transformer, scheduler)


def tiny_sana_video() -> DiffusionPipeline:
    """SANA-Video with Wan 2.1's autoencoder."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text_encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
        )
    )
    transformer = SanaVideoTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=TEXT_WIDTH,
    )
    vae = AutoencoderKLWan(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0)
    return SanaVideoPipeline(tokenizer, text_encoder, vae, transformer, scheduler)


def in_tiles(pipe: Any) -> None:
    """Has Allegro's autoencoder do what it can: tiles of a single clip."""
    pipe.vae.enable_tiling()
    pipe.vae.enable_slicing()


MORE_VIDEO: dict[str, TinyFamily] = {
    "AnimateDiffPipeline": TinyFamily(tiny_animatediff, (5, 32, 48)),
    "LattePipeline": TinyFamily(tiny_latte, (4, 32, 48), call={"mask_feature": True}),
    "AllegroPipeline": TinyFamily(tiny_allegro, (24, 128, 128), prepare=in_tiles),
    "SanaVideoPipeline": TinyFamily(tiny_sana_video, (9, 32, 64)),
}
