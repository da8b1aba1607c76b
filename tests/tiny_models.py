"""Tiny random models in the layouts of the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from halovid.rewards.backbones import EncoderSpec

QWEN_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
IDEFICS_TOKENS = ("<unk>", "<s>", "</s>", "<fake_token_around_image>", "<image>", "<end_of_utterance>")
SMOL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"),
)
WIDTH = 24
CONSTANTS = {"VQ_mean": 1.5, "VQ_std": 2.0, "MQ_mean": -0.5, "MQ_std": 4.0, "TA_mean": 0.25, "TA_std": 0.5}
VOCABULARY = 320  # bytes and special tokens, and some that are unused, as in real models
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}


def encoder_spec(**changes: Any) -> EncoderSpec:
    """A small convolutional encoder of causal clips, 9 frames of 8 x 8 pixels, with some values changed."""
    values: dict[str, Any] = {"name": "conv", "width": 16, "layers": 1, "heads": 2, "patch_size": 4, "prompt_width": 5}
    values |= {"num_frames": 9, "frame_height": 8, "frame_width": 8, "temporal_stride": 4, "causal_first_frame": True}
    return EncoderSpec(**values | changes)


def make_tokenizer(special: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Bytes as tokens, after the special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=special[0], eos_token=special[2], additional_special_tokens=list(special)
    )


def qwen_config(kind: str) -> transformers.PreTrainedConfig:
    ids = {f"{name}_token_id": QWEN_TOKENS.index(f"<|{name}_pad|>") for name in ("image", "video")}
    ids |= {f"vision_{end}_token_id": QWEN_TOKENS.index(f"<|vision_{end}|>") for end in ("start", "end")}
    text = TEXT | {"rope_parameters": MROPE, "head_dim": 12, "max_position_embeddings": 4096}
    if kind == "qwen2_vl":
        vision = {"depth": 2, "embed_dim": 16, "hidden_size": 24, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
        return transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **ids)
    vision = {"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 24}
    if kind == "qwen2_5_vl":
        vision |= {"fullatt_block_indexes": [1], "window_size": 56, "patch_size": 14}
        return transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64, "patch_size": 16}
    return transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **ids)


def smolvlm_config(kind: str) -> transformers.PreTrainedConfig:
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 4}
    text = transformers.LlamaConfig(**TEXT, head_dim=12)
    return transformers.SmolVLMConfig(
        text_config=text, vision_config=vision, scale_factor=2, image_token_id=SMOL_TOKENS.index("<image>")
    )


def idefics2_config(kind: str) -> transformers.PreTrainedConfig:
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 112, "patch_size": 14}
    perceiver = {"resampler_n_latents": 4, "resampler_depth": 2, "resampler_n_heads": 2, "resampler_head_dim": 8}
    perceiver |= {"num_key_value_heads": 1, "hidden_size": 24}
    text = transformers.MistralConfig(**TEXT, head_dim=12)
    return transformers.Idefics2Config(
        text_config=text,
        vision_config=vision,
        perceiver_config=perceiver,
        image_token_id=IDEFICS_TOKENS.index("<image>"),
        tie_word_embeddings=False,
    )


LANGUAGE: dict[str, tuple[Callable[[str], transformers.PreTrainedConfig], str, tuple[str, ...]]] = {
    "qwen2_vl": (qwen_config, "Qwen2VLForConditionalGeneration", QWEN_TOKENS),
    "qwen2_5_vl": (qwen_config, "Qwen2_5_VLForConditionalGeneration", QWEN_TOKENS),
    "qwen3_vl": (qwen_config, "Qwen3VLForConditionalGeneration", QWEN_TOKENS),
    "smolvlm": (smolvlm_config, "SmolVLMForConditionalGeneration", SMOL_TOKENS),
    "idefics2": (idefics2_config, "Idefics2ForConditionalGeneration", IDEFICS_TOKENS),
}
BACKBONE_OF = {"smolvlm": "smolvlm", "idefics2": "idefics2"}  # the others are qwen_vl


def write_language_model(kind: str, folder: Path) -> Path:
    """A whole vision-language model with random weights and its tokenizer."""
    make_config, name, special = LANGUAGE[kind]
    torch.manual_seed(0)
    model = getattr(transformers, name)(make_config(kind))
    for parameter in model.parameters():  # the usual 0.02 would drown what tests look for
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    make_tokenizer(special).save_pretrained(folder)
    return folder


def shake(model: Any) -> None:
    """Random weights that are large enough for every input to count."""
    torch.manual_seed(7)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)


def make_head(rows: int) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(5))


def old_qwen_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As transformers of 2024 named them."""
    return {name.replace("language_model.", "model.", 1): value for name, value in state.items()}


def old_qwen_config() -> dict[str, Any]:
    """The flat config.json of 2024: the text model's settings at the top."""
    config = qwen_config("qwen2_vl").to_dict()
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    flat = text | config | {"rope_theta": rope["rope_theta"], "model_type": "qwen2_vl"}
    flat["vision_config"]["model_type"] = "qwen2_vl"
    return flat


def write_videoreward(folder: Path, layout: str, outputs: int) -> Path:
    """VideoReward with its base model beside it, in one of its two layouts."""
    base = folder / "base"
    base.mkdir(parents=True)
    model = transformers.Qwen2VLForConditionalGeneration(qwen_config("qwen2_vl"))
    shake(model)
    model.save_pretrained(base)
    (base / "config.json").write_text(json.dumps(old_qwen_config()))
    tokenizer = make_tokenizer(QWEN_TOKENS)
    tokenizer.save_pretrained(base)
    vocabulary = len(tokenizer) + 3
    state = {f"base_model.model.{name}": v for name, v in old_qwen_names(model.model.state_dict()).items()}
    embedding = "base_model.model.model.embed_tokens.weight"
    state[embedding] = torch.randn(vocabulary, WIDTH, generator=torch.Generator().manual_seed(6))
    state["base_model.model.rm_head.weight"] = make_head(outputs)
    generator = torch.Generator().manual_seed(8)
    linear = [name for name in state if ".layers." in name and "norm" not in name and name.endswith("_proj.weight")]
    lora: dict[str, Tensor] = {}
    for name in linear:
        layer = name.removesuffix(".weight")
        rows, columns = state[name].shape
        lora[f"{layer}.lora_A.weight"] = torch.randn(4, columns, generator=generator) / 5
        lora[f"{layer}.lora_B.weight"] = torch.randn(rows, 4, generator=generator) / 5
    checkpoint = folder / "checkpoint-11352"
    checkpoint.mkdir()
    (folder / "checkpoint-200").mkdir()  # an earlier one, which nothing reads
    if layout == "whole":
        whole = {
            name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."): v
            for name, v in lora.items()
        }
        layers = {name.rpartition(".")[0] for name in linear}
        for name, value in state.items():
            layer, _, kind = name.rpartition(".")
            whole[f"{layer}.base_layer.{kind}" if layer in layers else name] = value
        whole["base_model.model.lm_head.weight"] = state[embedding]
        torch.save(whole, checkpoint / "model.pth")
    else:
        trained = {n: v for n, v in state.items() if ".visual." in n or "rm_head" in n or n == embedding}
        trained = {n: v + 0.01 if ".visual." in n else v for n, v in trained.items()}
        torch.save(trained, checkpoint / "non_lora_state_dict.pth")
        save_file(lora, checkpoint / "adapter_model.safetensors")
    config = {
        "data_config": {
            "meta_data": None,
            "data_dir": None,
            "fps": 2.0,
            "num_frames": None,
            "max_frame_pixels": 448 * 448,
            "sample_type": "uniform",
            "eval_dim": ["VQ", "MQ", "TA"],
            "prompt_template_type": "detailed_special",
        },
        "model_config": {
            "model_name_or_path": "base",
            "output_dim": outputs,
            "use_special_tokens": True,
            "reward_token": "special",
        },
        "peft_lora_config": {"lora_enable": True, "lora_r": 4, "lora_alpha": 8, "use_rslora": False},
        "inference_config": CONSTANTS,
    }
    (folder / "model_config.json").write_text(json.dumps(config))
    return folder
