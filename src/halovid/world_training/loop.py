"""The loop that all trainings of this folder share: steps, a log, checkpoints, exact resume."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from halovid.maths.optimizers import MuonAdamW
from halovid.store.checkpoint import load_checkpoint, save_checkpoint
from halovid.store.runtime import progress

LOG_EVERY = 50


def descend(loss: Tensor, module: nn.Module, optimizer: MuonAdamW, rate: float) -> None:
    """One step of the optimizer at this rate, its gradient's norm clipped at 1."""
    optimizer.set_rate(rate)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()


class Stateful(Protocol):
    """What a checkpoint holds: a module, an optimizer, an average of weights."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


def run_steps(
    checkpoint: Path,
    parts: Mapping[str, Stateful],
    num_steps: int,
    train_step: Callable[[int], dict[str, float]],
    checkpoint_every: int,
) -> None:
    """Runs `train_step` from the checkpoint's step (0 without one) to `num_steps`, and keeps checkpoint and log.

    The log is `checkpoint` with the suffix .jsonl: the means of what `train_step` returns over LOG_EVERY steps. To
    resume exactly, a step must draw all its randomness from its own number.
    """
    step, log = 0, checkpoint.with_suffix(".jsonl")
    if checkpoint.exists():
        state = load_checkpoint(checkpoint)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        step = state["step"]
    started, recent = time.monotonic(), []
    with progress(checkpoint.stem, num_steps, step) as advance:
        while step < num_steps:
            recent.append(train_step(step))
            step += 1
            advance()
            if step % LOG_EVERY == 0 or step == num_steps:
                means = {name: sum(row[name] for row in recent) / len(recent) for name in recent[0]}
                line = {"step": step} | means | {"seconds": round(time.monotonic() - started, 1)}
                with log.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                recent.clear()
            if step % checkpoint_every == 0 or step == num_steps:
                save_checkpoint(checkpoint, {name: part.state_dict() for name, part in parts.items()} | {"step": step})
