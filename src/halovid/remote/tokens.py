"""Estimates of how many tokens a question has, before the server counts them."""

from __future__ import annotations

import math

BYTES_PER_TOKEN = 4  # of English text and of JSON
_TILE, _TILE_TOKENS, _BASE_TOKENS = 512, 170, 85  # how OpenAI counts pictures of high detail for its 4o models
_LARGEST, _SHORTEST = 2048, 768  # pixels to which OpenAI first reduces the longer and the shorter side


def count_text_tokens(text_bytes: int) -> int:
    """Tokens of a text of so many UTF-8 bytes."""
    return math.ceil(text_bytes / BYTES_PER_TOKEN)


def count_picture_tokens(width: int, height: int, patch: int | None) -> int:
    """Tokens of a picture: one for each square of `patch` pixels, or by OpenAI's rule of tiles when that is None.

    Source: https://platform.openai.com/docs/guides/images-vision (calculating costs, 4o family).
    """
    if patch is not None:
        return math.ceil(width / patch) * math.ceil(height / patch)
    scale = min(1.0, _LARGEST / max(width, height))
    scale = min(scale, _SHORTEST / min(width, height))
    return _BASE_TOKENS + _TILE_TOKENS * math.ceil(width * scale / _TILE) * math.ceil(height * scale / _TILE)
