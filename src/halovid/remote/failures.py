"""How asking a model can fail. It imports none of the packages that asking needs, so that all code may catch these."""

from __future__ import annotations


class Trouble(Exception):
    """A call failed, and another attempt may succeed.

    wait: seconds before it that the server asks for.  paid: the call may have cost something.
    refused: because of what the question holds.
    """

    def __init__(self, reason: str, wait: float | None = None, paid: bool = False, refused: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.paid, self.refused = wait, paid, refused


class WrongAnswer(Trouble):
    """The model answered, but not what was asked for."""


class Unanswered(Exception):
    """A question has no answer in this run; the message says why.

    refused: because of what the question holds.
    wrong: the last attempt had an answer too, but not one of the form that was asked for.
    """

    def __init__(self, reason: str, refused: bool = False, wrong: bool = False) -> None:
        super().__init__(reason)
        self.refused, self.wrong = refused, wrong

    @property
    def final(self) -> bool:
        """Whether asking again would fail again: the question is at fault, not an outage, a limit or a setting."""
        return self.refused or self.wrong


class Stopped(Unanswered):
    """Nothing more can be asked in this run. `fatal`: a setting must be mended first."""

    def __init__(self, reason: str, fatal: bool = False) -> None:
        super().__init__(reason)
        self.fatal = fatal


class NotKept(Exception):
    """An answer can't be written to the disk or read from it; the message names the file and says why."""
