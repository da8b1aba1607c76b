"""The one exception for mistakes a user can mend."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: the message says what came, what is allowed and what to do. The command exits with code 2."""


class TrainingError(RuntimeError):
    """A training that can't go on: the message says what happened and where the evidence lies. Exit code 1."""
