"""The step loop of a training that can be killed at any time and continued: its checkpoints and its log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from halovid.store.checkpoint import load_checkpoint, save_checkpoint
from halovid.store.files import write_text
from halovid.store.runtime import progress


class Stateful(Protocol):
    """What a checkpoint holds: a network, an optimizer, a moving average."""

    def state_dict(self) -> dict[str, Any]:
        """Its state: nested dicts and lists of tensors and JSON values."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Restores what `state_dict` returned."""


class ResumableTraining:
    """Counts the steps of a training, and saves checkpoints and the log; restores a checkpoint that exists already.

    For a resumed training to be exact, a step must derive all its randomness from its own number.

    done: how many steps are done.

    Args:
        checkpoint: a safetensors file.
        states: what the checkpoint holds, by name; they are restored from it.
        log: a JSON Lines file; it is written with every checkpoint.
        writes: whether this process writes the files, of several that share the training.

    Raises:
        InputError: the checkpoint is damaged.
    """

    def __init__(self, checkpoint: Path, states: Mapping[str, Stateful], log: Path, writes: bool = True) -> None:
        self._checkpoint, self._states, self._log, self._writes = checkpoint, states, log, writes
        self.done, self._lines = 0, []
        if checkpoint.exists():
            stored = load_checkpoint(checkpoint)
            for name, state in states.items():
                state.load_state_dict(stored[name])
            self.done, self._lines = stored["step"], stored["log"]

    def steps(self, total: int, checkpoint_every: int, description: str) -> Iterator[int]:
        """The numbers of the remaining steps, from `done` to `total` - 1, for a `for` loop that does them.

        A step counts as done when the loop asks for the next one. A checkpoint is saved after every `checkpoint_every`
        steps and at the end.
        """
        with progress(description, total, self.done) as advance:
            while self.done < total:
                yield self.done
                self.done += 1
                advance()
                if self.done % checkpoint_every == 0 and self.done < total:
                    self._save()
        self._save()

    def record(self, metrics: dict[str, float]) -> None:
        """Adds a line with the metrics of the current step to the log, in which steps are counted from 1."""
        self._lines.append({"step": self.done + 1} | metrics)

    def _save(self) -> None:
        if not self._writes:
            return
        write_text(self._log, "".join(json.dumps(line) + "\n" for line in self._lines))
        states = {name: state.state_dict() for name, state in self._states.items()}
        save_checkpoint(self._checkpoint, states | {"step": self.done, "log": self._lines})
