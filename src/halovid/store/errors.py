"""Errors that a command reports to its user in one sentence."""

from __future__ import annotations

from pathlib import Path

MOST_SHOWN = 100  # characters of anybody's text in a message


class InputError(ValueError):
    """Bad input: the message says what came, what is allowed and what to do. The command exits with code 2."""


class DamageError(RuntimeError):
    """A file of a run is not what its stage wrote; running that stage again repairs it. Exit code 2.

    It is no InputError: a stage may skip an item for which one is raised, but must not skip damage.
    """

    def __init__(self, path: Path, stage: str) -> None:
        super().__init__(
            f"{path} is missing or not what the stage {stage!r} wrote; run `halovid {stage}` with the same recipe "
            f"again, which makes what is damaged anew and keeps the rest"
        )


class MachineError(RuntimeError):
    """The machine lacks what a stage needs (memory, space, rights): the message says what to do. Exit code 2."""


class TrainingError(RuntimeError):
    """A training can't go on: the message says what happened, and which file helps to find out why. Exit code 1."""


def shorten(text: str) -> str:
    """A text as a message repeats it: at most 100 characters."""
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."
