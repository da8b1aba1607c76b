"""How asking a model can fail. Free of the packages that asking needs, so that anybody may catch these."""

from __future__ import annotations


class Trouble(Exception):
    """The call failed, another may not.

    wait: seconds the server asks for.  paid: it may have cost something.  refused: for what the question holds.
    """

    def __init__(self, reason: str, wait: float | None = None, paid: bool = False, refused: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.paid, self.refused = wait, paid, refused


class WrongAnswer(Trouble):
    """The model answered, but not what was asked for."""


class Unanswered(Exception):
    """A question stays without an answer in this run; the message says why.

    refused: for what the question holds.  wrong: the model did answer, the last time too, but not what was asked for.
    """

    def __init__(self, reason: str, refused: bool = False, wrong: bool = False) -> None:
        super().__init__(reason)
        self.refused, self.wrong = refused, wrong

    @property
    def final(self) -> bool:
        """Whether a model that always answers alike would fail again: no outage, limit or setting is at fault."""
        return self.refused or self.wrong


class Stopped(Unanswered):
    """Nothing more can be asked in this run. `fatal`: a setting must be mended first."""

    def __init__(self, reason: str, fatal: bool = False) -> None:
        super().__init__(reason)
        self.fatal = fatal


class NotKept(Exception):
    """An answer can't be kept on the disk, or not be read from it; the message names the file and says why."""
