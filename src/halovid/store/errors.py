"""The one exception for mistakes a user can mend."""

from __future__ import annotations

MOST_SHOWN = 100  # characters of anybody's text in a message


class InputError(ValueError):
    """Bad input: the message says what came, what is allowed and what to do. The command exits with code 2."""


class TrainingError(RuntimeError):
    """A training that can't go on: the message says what happened and where the evidence lies. Exit code 1."""


def shorten(text: str) -> str:
    """A text as a message repeats it: at most 100 characters."""
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."
