"""Tiny random pipelines of the text-to-image families, in the released layouts."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from halovid.world_training.text import build_tokenizer
from tiny_parts import TEXT_WIDTH, TinyFamily, clip_encoder, clip_tokenizer, picture_vae, t5_encoder

PICTURE = (1, 32, 48)  # frames, height, width
STABLE_DIFFUSION_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def picture_unet(**settings: Any) -> UNet2DConditionModel:
    layout = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 4,
    }
    return UNet2DConditionModel(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=2, **layout | settings)


def clip_with_projection(tokenizer: Any) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(clip_encoder(tokenizer).config)


def tiny_stable_diffusion() -> DiffusionPipeline:
    """Stable Diffusion 1.5: epsilon, a scheduler that calls one timestep twice, a safety checker that never finds."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    narrow = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    sight = narrow | {"image_size": 16, "patch_size": 8}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(text_config=CLIPTextConfig(**narrow).to_dict(), vision_config=sight, projection_dim=8)
    )
    processor = CLIPImageProcessor(crop_size={"height": 16, "width": 16}, size={"shortest_edge": 16})
    scheduler = PNDMScheduler(**STABLE_DIFFUSION_BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    return StableDiffusionPipeline(
        picture_vae(scaling_factor=0.18215),
        clip_encoder(tokenizer),
        tokenizer,
        picture_unet(),
        scheduler,
        checker,
        processor,
    )


def tiny_stable_diffusion_v() -> DiffusionPipeline:
    """Stable Diffusion 2.1: v-prediction, no safety checker."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    scheduler = DDIMScheduler(
        **STABLE_DIFFUSION_BETAS,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    unet = picture_unet(use_linear_projection=True, attention_head_dim=(2, 2))
    vae = picture_vae(scaling_factor=0.18215)
    parts = (vae, clip_encoder(tokenizer), tokenizer, unet, scheduler)
    return StableDiffusionPipeline(*parts, None, None, requires_safety_checker=False)


def tiny_stable_diffusion_xl() -> DiffusionPipeline:
    """SDXL 1.0: epsilon, two text encoders, size ids, a scheduler with scaled inputs."""
    torch.manual_seed(0)
    tokenizers = clip_tokenizer(), clip_tokenizer()
    unet = picture_unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
        cross_attention_dim=2 * TEXT_WIDTH,
    )
    scheduler = EulerDiscreteScheduler(**STABLE_DIFFUSION_BETAS, timestep_spacing="leading", steps_offset=1)
    encoders = clip_encoder(tokenizers[0]), clip_with_projection(tokenizers[1])
    vae = picture_vae(scaling_factor=0.13025, force_upcast=True)
    return StableDiffusionXLPipeline(vae, *encoders, *tokenizers, unet, scheduler)


def tiny_stable_diffusion_3() -> DiffusionPipeline:
    """Stable Diffusion 3.5: a flow, three text encoders, a block with a second attention."""
    torch.manual_seed(0)
    clip_tokenizers, t5_tokenizer = (clip_tokenizer(), clip_tokenizer()), build_tokenizer()
    encoders = [clip_with_projection(tokenizer) for tokenizer in clip_tokenizers]
    transformer = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer,
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        picture_vae(scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        encoders[0],
        clip_tokenizers[0],
        encoders[1],
        clip_tokenizers[1],
        t5_encoder(t5_tokenizer, 2 * TEXT_WIDTH),
        t5_tokenizer,
    )


def tiny_flux(guidance_embeds: bool = True) -> DiffusionPipeline:
    """FLUX.1 dev, which is told its guidance scale, or schnell, which has none."""
    torch.manual_seed(0)
    clip, t5 = clip_tokenizer(), build_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    vae = picture_vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)
    return FluxPipeline(scheduler, vae, clip_encoder(clip), clip, t5_encoder(t5), t5, transformer)


def chat_tokenizer() -> Any:
    """A tokenizer that knows how a conversation is written."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message.role }} : {{ message.content }} . {% endfor %}"
    return tokenizer


def qwen_layout(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }


def tiny_flux2_klein(is_distilled: bool = False) -> DiffusionPipeline:
    """FLUX.2 klein: states of three layers, an autoencoder with the statistics of squares."""
    torch.manual_seed(0)
    tokenizer = chat_tokenizer()
    text_encoder = Qwen3ForCausalLM(Qwen3Config(**qwen_layout(tokenizer), num_hidden_layers=28))
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
    )
    vae.bn.running_mean.copy_(torch.linspace(-0.5, 0.5, 16))
    vae.bn.running_var.copy_(torch.linspace(0.5, 2.0, 16))
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * TEXT_WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return Flux2KleinPipeline(scheduler, vae, text_encoder, tokenizer, transformer, is_distilled)


def tiny_qwen_image() -> DiffusionPipeline:
    """Qwen-Image: texts with masks, a video autoencoder with means and deviations of its own."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    rotary = {"rope_type": "default", "mrope_section": [1, 1, 2]}
    text = qwen_layout(tokenizer) | {"num_hidden_layers": 1, "rope_scaling": rotary}
    sight = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 1, "out_hidden_size": TEXT_WIDTH}
    text_encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=sight))
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[-0.7571, -0.7089, 0.9653, 1.5508],
        latents_std=[2.8184, 1.4541, 1.1253, 3.2687],
    )
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
    )
    return QwenImagePipeline(scheduler, vae, text_encoder, tokenizer, transformer)


def tiny_z_image() -> DiffusionPipeline:
    """Z-Image: texts of unequal lengths."""
    torch.manual_seed(0)
    tokenizer = chat_tokenizer()
    text_encoder = Qwen3Model(Qwen3Config(**qwen_layout(tokenizer), num_hidden_layers=2))
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=64,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=TEXT_WIDTH,
        axes_dims=[8, 12, 12],
        axes_lens=[1024, 64, 64],
    )
    vae = picture_vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)
    return ZImagePipeline(FlowMatchEulerDiscreteScheduler(shift=6.0), vae, text_encoder, tokenizer, transformer)


def tiny_sana() -> DiffusionPipeline:
    """Sana: an autoencoder without a posterior that divides sides by 32."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text_encoder = Gemma2Model(Gemma2Config(**qwen_layout(tokenizer), num_hidden_layers=1))
    kinds = (*("ResBlock",) * 5, "EfficientViTBlock")
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_types=kinds,
        decoder_block_types=kinds,
        encoder_block_out_channels=(8,) * 6,
        decoder_block_out_channels=(8,) * 6,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=((), (), (), (), (), (5,)),
        decoder_qkv_multiscales=((), (), (), (), (), (5,)),
        scaling_factor=0.41407,
    )
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=TEXT_WIDTH,
    )
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return SanaPipeline(tokenizer, text_encoder, vae, transformer, scheduler)


def tiny_pixart_sigma() -> DiffusionPipeline:
    """PixArt-Sigma: epsilon with a learned variance."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        norm_num_groups=2,
        cross_attention_dim=16,
        sample_size=8,
        caption_channels=TEXT_WIDTH,
    )
    scheduler = DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02)
    vae = picture_vae(scaling_factor=0.13025)
    return PixArtSigmaPipeline(tokenizer, t5_encoder(tokenizer), vae, transformer, scheduler)


NO_NEGATIVE = {"negative_prompt": ""}
NO_GUIDANCE = NO_NEGATIVE | {"guidance_scale": 1.0}
IMAGES: dict[str, TinyFamily] = {
    "StableDiffusionPipeline": TinyFamily(tiny_stable_diffusion, PICTURE),
    "StableDiffusionPipeline-v": TinyFamily(tiny_stable_diffusion_v, PICTURE),
    "StableDiffusionXLPipeline": TinyFamily(tiny_stable_diffusion_xl, PICTURE),
    "StableDiffusion3Pipeline": TinyFamily(tiny_stable_diffusion_3, PICTURE),
    "FluxPipeline": TinyFamily(tiny_flux, PICTURE, NO_NEGATIVE),
    "FluxPipeline-schnell": TinyFamily(lambda: tiny_flux(guidance_embeds=False), PICTURE, NO_GUIDANCE),
    "Flux2KleinPipeline": TinyFamily(tiny_flux2_klein, PICTURE),
    "Flux2KleinPipeline-distilled": TinyFamily(lambda: tiny_flux2_klein(is_distilled=True), PICTURE, NO_GUIDANCE),
    "QwenImagePipeline": TinyFamily(tiny_qwen_image, PICTURE),
    "ZImagePipeline": TinyFamily(tiny_z_image, PICTURE),
    "SanaPipeline": TinyFamily(tiny_sana, (1, 64, 96)),
    "PixArtSigmaPipeline": TinyFamily(tiny_pixart_sigma, PICTURE),
}
