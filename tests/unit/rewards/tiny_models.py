"""Tiny random models in the layouts of the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

QWEN_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
IDEFICS_TOKENS = ("<unk>", "<s>", "</s>", "<fake_token_around_image>", "<image>", "<end_of_utterance>")
SMOL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"),
)
VOCABULARY = 320  # bytes and special tokens, and some that are unused, as in real models
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}


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
