"""The one exception for mistakes a user can mend."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: the message says what came, what is allowed and what to do. The command exits with code 2."""
