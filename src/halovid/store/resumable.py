"""The steps of a training that may be killed anywhere: where it stands, its log and its checkpoints."""

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
        """Takes over what `state_dict` gave."""


class ResumableTraining:
    """Counts steps, and keeps a checkpoint and the log with it; continues from the checkpoint where there is one.

    To resume exactly, a step must draw all its randomness from its own number.

    Args:
        checkpoint: a safetensors file.
        parts: what the checkpoint holds, by name.
        log: a JSON Lines file; it is written with every checkpoint.
        writes: whether this process is the one that writes, of several that share the training.

    Raises:
        InputError: the checkpoint is damaged.
    """

    def __init__(self, checkpoint: Path, parts: Mapping[str, Stateful], log: Path, writes: bool = True) -> None:
        self._checkpoint, self._parts, self._log, self._writes = checkpoint, parts, log, writes
        self.done, self._lines = 0, []
        if checkpoint.exists():
            state = load_checkpoint(checkpoint)
            for name, part in parts.items():
                part.load_state_dict(state[name])
            self.done, self._lines = state["step"], state["log"]

    def steps(self, total: int, checkpoint_every: int, description: str) -> Iterator[int]:
        """The numbers of the steps that are left, from `done` to `total` - 1; each counts when the next is asked for.

        There is a checkpoint after every `checkpoint_every` steps and at the end.
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
        """Adds a line to the log, for the step that is being done; steps are counted from 1 there."""
        self._lines.append({"step": self.done + 1} | metrics)

    def _save(self) -> None:
        if not self._writes:
            return
        write_text(self._log, "".join(json.dumps(line) + "\n" for line in self._lines))
        state = {name: part.state_dict() for name, part in self._parts.items()}
        save_checkpoint(self._checkpoint, state | {"step": self.done, "log": self._lines})
