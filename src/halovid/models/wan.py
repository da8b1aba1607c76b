"""Wan: any diffusers `WanPipeline` folder or hub id, from the packaged world to Wan 2.1 1.3B and 14B."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttention
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from halovid.config.run import GeneratorConfig
from halovid.maths.grid import LatentGeometry
from halovid.maths.noise import flow_interpolate, flow_velocity
from halovid.models.base import ADAPTER
from halovid.store.errors import InputError
from halovid.store.files import atomic_path

_MAX_TEXT = 512  # tokens, WanPipeline's own default
_LORA_FILE = "pytorch_lora_weights.safetensors"


class WanGenerator:
    """The `Generator` of a Wan text-to-video pipeline with one transformer (Wan 2.1; not 2.2's two experts)."""

    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")

    def __init__(self, path: str, config: GeneratorConfig, device: torch.device, dtype: torch.dtype) -> None:
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        try:
            pipe = WanPipeline.from_pretrained(path, dtype={"default": dtype, "vae": torch.float32})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"generator.model {path!r} is not a readable WanPipeline: {error}. Give 'world', a "
                f"folder that WanPipeline.save_pretrained wrote, or the id of one on the hub"
            ) from error
        if pipe.transformer is None or pipe.transformer_2 is not None or pipe.config.expand_timesteps:
            raise InputError(f"generator.model {path!r} is a Wan 2.2 pipeline; this adapter drives Wan 2.1 layouts")
        pipe.to(device)
        pipe.set_progress_bar_config(disable=True)
        for module in (pipe.vae, pipe.text_encoder, pipe.transformer):
            module.requires_grad_(False).eval()
        merge_text_padding(pipe.transformer)
        self._pipe, self._config, self._device = pipe, config, device
        self.denoiser: WanTransformer3DModel = pipe.transformer
        vae = pipe.vae.config
        self.geometry = LatentGeometry(vae.scale_factor_temporal, vae.scale_factor_spatial, causal_first_frame=True)
        self.geometry.latent_shape(config.num_frames, config.height, config.width)
        shape = (1, vae.z_dim, 1, 1, 1)
        self._mean = torch.tensor(vae.latents_mean, device=device).view(shape)
        self._std = torch.tensor(vae.latents_std, device=device).view(shape)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Tensor:
        """[B, 512, D]; rows after the end of a prompt are zero."""
        return self._pipe.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=_MAX_TEXT, device=self._device
        )[0]

    @torch.no_grad()
    def sample(self, prompt_embeds: Tensor, seeds: list[int]) -> Tensor:
        """[B, C, T, h, w] by the pipeline's own scheduler and guidance."""
        config = self._config
        negative = None
        if config.guidance_scale > 1:
            negative = self.encode_prompts([config.negative_prompt]).expand(len(seeds), -1, -1)
        return self._pipe(
            prompt_embeds=prompt_embeds.to(self._device),
            negative_prompt_embeds=negative,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="latent",
            num_frames=config.num_frames,
            height=config.height,
            width=config.width,
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
        ).frames

    @torch.no_grad()
    def encode_video(self, video: Tensor) -> Tensor:
        """[B, C, T, h, w], the posterior's mode, normalised."""
        moments = self._pipe.vae.encode(video.to(self._device, torch.float32)).latent_dist
        return (moments.mode() - self._mean) / self._std

    @torch.no_grad()
    def decode_video(self, latents: Tensor) -> Tensor:
        """[B, 3, F, H, W]."""
        scaled = latents.to(self._device, torch.float32) * self._std + self._mean
        return self._pipe.vae.decode(scaled, return_dict=False)[0].clamp(-1, 1)

    def add_noise(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """The flow path between latents and noise."""
        return flow_interpolate(latents, noise, sigma)

    def predict(self, noisy_latents: Tensor, sigma: Tensor, prompt_embeds: Tensor) -> Tensor:
        """The velocity; the scheduler's timestep is 1000 * sigma."""
        dtype = self.denoiser.dtype
        timestep = sigma * self._pipe.scheduler.config.num_train_timesteps
        return self.denoiser(noisy_latents.to(dtype), timestep, prompt_embeds.to(dtype), return_dict=False)[0]

    def target(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """noise - latents."""
        return flow_velocity(latents, noise)

    def save_weights(self, folder: Path) -> None:
        """A LoRA that `load_lora_weights` reads when there is an adapter, else the whole `transformer` folder."""
        if getattr(self.denoiser, "peft_config", None):
            layers = get_peft_model_state_dict(self.denoiser, adapter_name=ADAPTER)
            settings = self.denoiser.peft_config[ADAPTER].to_dict()
            tensors = {f"transformer.{name}": value.contiguous() for name, value in layers.items()}
            told = {f"transformer.{key}": sorted(v) if isinstance(v, set) else v for key, v in settings.items()}
            # not save_lora_weights: it writes its metadata in another order in every process
            with atomic_path(folder / _LORA_FILE) as temporary:
                save_file(tensors, temporary, metadata={"lora_adapter_metadata": json.dumps(told, sort_keys=True)})
        else:
            self.denoiser.save_pretrained(folder / "transformer")

    def load_weights(self, folder: Path) -> None:
        """Takes over what `save_weights` wrote."""
        if (folder / _LORA_FILE).exists():
            self._pipe.load_lora_weights(folder, weight_name=_LORA_FILE, adapter_name=ADAPTER)
        else:
            trained = WanTransformer3DModel.from_pretrained(folder / "transformer")
            self.denoiser.load_state_dict(trained.state_dict())

    def save_merged(self, folder: Path) -> None:
        """A pipeline folder like the one that was opened."""
        if getattr(self.denoiser, "peft_config", None):
            self._pipe.fuse_lora(components=["transformer"], adapter_names=[ADAPTER])
            self._pipe.unload_lora_weights()
        self._pipe.save_pretrained(folder)


class TextPadding:
    """Cross-attention over [prompt, one pad] instead of [prompt, hundreds of equal pads], exactly.

    Wan pads every prompt with zero rows to a fixed length and attends to all of them. Equal rows give equal keys
    and values, so n of them weigh as much as one whose logit is raised by log n.
    """

    def __init__(self) -> None:
        self.key_bias: Tensor | None = None

    def trim(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Forward pre-hook of the transformer: cuts the padding of `encoder_hidden_states`, notes its weight."""
        text = args[2] if len(args) > 2 else kwargs["encoder_hidden_states"]
        lengths = text.shape[1] - (text.flip(1) != 0).any(-1).int().argmax(1)
        lengths = torch.where((text != 0).any(-1).any(-1), lengths, torch.zeros_like(lengths))
        kept = min(int(lengths.max()) + 1, text.shape[1])
        pads = torch.arange(kept, device=text.device) >= lengths[:, None]
        weight = (text.shape[1] - lengths) / (kept - lengths).clamp(min=1)
        self.key_bias = torch.where(pads, weight.log()[:, None], 0.0)[:, None, None].to(text.dtype)
        if len(args) > 2:
            return (*args[:2], text[:, :kept], *args[3:]), kwargs
        return args, kwargs | {"encoder_hidden_states": text[:, :kept]}

    def __call__(self, attn: WanAttention, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: object) -> Tensor:
        """Attention processor of `attn2`: diffusers' own computation plus the bias."""
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        key = attn.norm_k(attn.to_k(encoder_hidden_states)).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        value = attn.to_v(encoder_hidden_states).unflatten(2, (attn.heads, -1)).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=self.key_bias)
        return attn.to_out[1](attn.to_out[0](mixed.transpose(1, 2).flatten(2)))


def merge_text_padding(transformer: WanTransformer3DModel) -> None:
    """Makes a text-to-video transformer skip its text padding, without a change of what it computes."""
    padding = TextPadding()
    for block in transformer.blocks:
        block.attn2.set_processor(padding)
    transformer.register_forward_pre_hook(padding.trim, with_kwargs=True)
