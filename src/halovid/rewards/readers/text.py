"""Text for language models: templates that user text can't break out of, and token ids."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from halovid.store.errors import InputError

PAD = -1  # fills rows of token ids


def fill(template: str, **values: str) -> str:
    """The template with every `{name}` of `values` replaced, in one pass: what a value holds is never replaced."""
    names = "|".join(map(re.escape, values))
    return re.sub(rf"\{{({names})\}}", lambda match: values[match.group(1)], template)


def plain_text(tokenizer: Any, text: str) -> str:
    """User text without the strings that a tokenizer reads as control tokens."""
    special = sorted(
        {str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special},
        key=len,
        reverse=True,
    )
    while any(token in text for token in special):  # again: taking one out can bring another together
        for token in special:
            text = text.replace(token, " ")
    return text


def token_id(tokenizer: Any, token: str, expected: int) -> int:
    """The id of the token that stands for pictures, checked against the one that the model's configuration names.

    Raises:
        InputError: the tokenizer does not have the token, or has it under another id.
    """
    if tokenizer.convert_tokens_to_ids(token) != expected:
        raise InputError(
            f"the tokenizer in {tokenizer.name_or_path} lacks {token} with id {expected}, which config.json names; its "
            "files are missing or another model's: download the model again"
        )
    return expected


def token_rows(tokenizer: Any, texts: list[str]) -> Tensor:
    """[n, L] token ids of whole texts, with the tokens that the tokenizer begins a text with; PAD on the right."""
    rows = [torch.tensor(ids, dtype=torch.long) for ids in tokenizer(texts, verbose=False).input_ids]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def without_pad(rows: Tensor, visual: int) -> tuple[Tensor, Tensor]:
    """[n, L] ids in which a harmless token stands for PAD, and the mask [n, L] that is False there.

    Args:
        visual: the id of the token that stands for pictures, which must not be the harmless one.
    """
    mask = rows != PAD
    return rows.masked_fill(~mask, 0 if visual else 1), mask


def last_of(hidden: Tensor, mask: Tensor) -> Tensor:
    """The state at the last token that counts: [n, L, D] -> [n, D]."""
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
