"""Keys of endpoints: read from the environment, and removed from whatever a server says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache

from halovid.config.endpoints import ModelConfig
from halovid.store.errors import InputError

_MAX_MESSAGE = 200  # characters of a server's own words that are repeated
_PIECE = 6  # shortest piece of the key that is removed from a message: servers repeat its beginning


def find_key(model: ModelConfig, section: str) -> str:
    """The key of an endpoint, "" when it takes none.

    Args:
        section: of the recipe that names the model, for the error.

    Raises:
        InputError: the variable is not set, or holds something that can't be a key.
    """
    if model.key_variable is None:
        return ""
    key = os.environ.get(model.key_variable, "").strip()
    if not key:
        raise InputError(
            f"the environment variable {model.key_variable} is not set: it must hold the key for {model.base_url}; "
            f"set {section}.key_variable to null for an endpoint without a key"
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise InputError(f"the environment variable {model.key_variable} holds characters that no key has")
    return key


def missing_keys(models: Iterable[ModelConfig], section: str) -> list[str]:
    """Why endpoints would refuse to answer, a sentence for each whose key is missing; see `find_key`."""
    sentences = []
    for model in models:
        try:
            find_key(model, section)
        except InputError as error:
            sentences.append(str(error))
    return sentences


def keepable(text: str, longest: int | None = None) -> str:
    """A text, or the beginning of it, that any file can hold: lone surrogates become question marks."""
    return text[:longest].encode("utf-8", "replace").decode("utf-8")


def without_key(text: str, key: str) -> str:
    """A server's text without the key ("": the endpoint has none) and without lone surrogates."""
    text = keepable(text)
    return _spellings(key).sub("[key]", text) if key else text


def quoted(text: str, key: str, longest: int = _MAX_MESSAGE) -> str:
    """The beginning of a server's text for a message: on one line, without the key and pieces of it."""
    return _without_pieces(" ".join(without_key(text, key).split())[:longest], key)


@cache
def _spellings(key: str) -> re.Pattern[str]:
    """The pattern of a key in a text, also where JSON has escaped any of its characters."""
    return re.compile("".join(rf"(?:\\?{re.escape(char)}|\\u(?i:{ord(char):04x}))" for char in key))


def _without_pieces(text: str, key: str) -> str:
    """A text of one line without the pieces of `_PIECE` or more characters that it has in common with a key."""
    starts = "|".join(re.escape(key[i : i + _PIECE]) for i in range(len(key) - _PIECE + 1))
    return re.sub(rf"(?:(?={starts}).)+.{{{_PIECE - 1}}}", "[key]", text) if starts else text
