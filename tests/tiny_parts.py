"""What tiny random pipelines of several families are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from diffusers import AutoencoderKL, DiffusionPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel

TEXT_WIDTH = 16


@dataclass(frozen=True)
class TinyFamily:
    """A family's tiny pipeline, and a size of clips that it makes: frames, height, width.

    Args:
        settings: what else it needs in the section `generator` of a recipe.
        call: arguments of the plain pipeline's call with texts that are others than those with tensors.
        prepare: what must be done to the plain pipeline before it can be called with two prompts.
    """

    build: Callable[[], DiffusionPipeline]
    size: tuple[int, int, int]
    settings: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Any], None] = lambda pipe: None


def t5_encoder(tokenizer: Any, width: int = TEXT_WIDTH) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )


def picture_vae(**settings: Any) -> AutoencoderKL:
    """An image autoencoder that divides sides by 8."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=2,
        **settings,
    )


def clip_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def clip_tokenizer() -> CLIPTokenizer:
    """Letters as tokens, each also as the end of a word."""
    letters = [*"abcdefghijklmnopqrstuvwxyz,.-0123456789"]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)
