"""Trains the packaged text encoder from nothing: its output must tell what the caption says of each sprite.

A generator that learns text and pictures at once spends most of its steps on finding out which word belongs to which
sprite. Here the encoder learns that first, in two minutes, from captions alone; then it is frozen, as text encoders of
large generators are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from halovid.maths.optimizers import MuonAdamW
from halovid.store.resumable import Stateful
from halovid.world.captions import all_words, write_caption
from halovid.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    NUM_SPRITES,
    SHAPES,
    SIZES,
    TEXTURES,
    SceneSpec,
    sample_spec,
)
from halovid.world_training.loop import descend, run_steps

MAX_TEXT = 512  # what WanPipeline pads every prompt to
WIDTH = 128
TEXT_ENCODER = {"d_model": WIDTH, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
ATTRIBUTES = {"size": SIZES, "texture": TEXTURES, "colour": COLOURS, "shape": SHAPES, "motion": MOTIONS}
NUM_STEPS = 1000
BATCH_SIZE = 64
RATE = 2e-3
WARMUP = 100
CHECKPOINT_EVERY = 250


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the caption grammar; unknown words share one token."""
    words = ["<pad>", "</s>", "<unk>", *all_words()]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=MAX_TEXT
    )


def build_text_encoder() -> UMT5EncoderModel:
    """An untrained encoder of the packaged size."""
    return UMT5EncoderModel(UMT5Config(vocab_size=len(build_tokenizer()), **TEXT_ENCODER))


class CaptionReader(nn.Module):
    """The encoder and, for its training only, one query per sprite that must read all attributes of that sprite."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder()
        self.queries = nn.Parameter(torch.randn(NUM_SPRITES + 1, WIDTH) * WIDTH**-0.5)
        self.keys = nn.Linear(WIDTH, WIDTH)
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, len(values)) for name, values in ATTRIBUTES.items()})
        self.background = nn.Linear(WIDTH, len(BACKGROUNDS))

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Logits of each attribute [B, N, values], and of the background [B, values]; ids and mask are [B, L]."""
        text = self.text_encoder(ids, mask).last_hidden_state
        match = (self.queries @ self.keys(text).transpose(1, 2)).masked_fill(mask[:, None] == 0, -torch.inf)
        read = match.softmax(-1) @ text
        logits = {name: head(read[:, :-1]) for name, head in self.heads.items()}
        return logits | {"background": self.background(read[:, -1])}


def train_text_encoder(folder: Path, num_steps: int = NUM_STEPS, seed: int = 0) -> None:
    """Trains to the end, continuing from `folder`'s checkpoint text.safetensors."""
    torch.manual_seed(seed)
    tokenizer, reader = build_tokenizer(), CaptionReader()
    optimizer = MuonAdamW(reader, RATE, betas=(0.9, 0.98), weight_decay=0.01)

    def train_step(step: int) -> dict[str, float]:
        ids, mask, truth = random_captions(tokenizer, np.random.default_rng([seed, step, 6]))
        logits = reader(ids, mask)
        losses = [F.cross_entropy(logits[name].flatten(0, -2), truth[name].flatten()) for name in logits]
        right = [(logits[name].argmax(-1) == truth[name]).float().mean() for name in logits]
        loss = torch.stack(losses).sum()
        descend(loss, reader, optimizer, RATE * min((step + 1) / WARMUP, 1 - step / num_steps))
        return {"loss": loss.item(), "right": torch.stack(right).mean().item()}

    parts: dict[str, Stateful] = {"model": reader, "optimizer": optimizer}
    run_steps(folder / "text.safetensors", parts, num_steps, train_step, CHECKPOINT_EVERY)


def random_captions(
    tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Token ids and mask [B, L] of training captions, and the indices of attribute values that the reader must tell."""
    specs = [sample_spec(rng, "train") for _ in range(BATCH_SIZE)]
    tokens = tokenizer([write_caption(spec, rng) for spec in specs], padding=True, return_tensors="pt")
    truth = {name: torch.tensor([_indices(spec, name) for spec in specs]) for name in ATTRIBUTES}
    truth["background"] = torch.tensor([BACKGROUNDS.index(spec.background) for spec in specs])
    return tokens.input_ids, tokens.attention_mask, truth


def _indices(spec: SceneSpec, attribute: str) -> list[int]:
    """The index of an attribute's value for each sprite."""
    return [ATTRIBUTES[attribute].index(getattr(sprite, attribute)) for sprite in spec.sprites]
