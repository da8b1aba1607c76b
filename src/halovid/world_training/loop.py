"""What all trainings of this folder share: one optimizer step, and the loop with its log and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from halovid.maths.optimizers import MuonAdamW
from halovid.store.resumable import ResumableTraining, Stateful

LOG_EVERY = 50


def half_precision() -> torch.autocast:
    """A context that computes in bf16 where the processor is fast at it; elsewhere bf16 is twenty times slower."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.backends.cpu.get_cpu_capability().startswith("AVX512"))


def descend(loss: Tensor, module: nn.Module, optimizer: MuonAdamW, rate: float) -> None:
    """One step of the optimizer at this rate, its gradient's norm clipped at 1."""
    optimizer.set_rate(rate)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()


def run_steps(
    checkpoint: Path,
    parts: Mapping[str, Stateful],
    num_steps: int,
    train_step: Callable[[int], dict[str, float]],
    checkpoint_every: int,
) -> None:
    """Runs `train_step` from the checkpoint's step (0 without one) to `num_steps`; see `ResumableTraining`.

    The log is `checkpoint` with the suffix .jsonl: the means of what `train_step` returns over LOG_EVERY steps.
    """
    training, recent = ResumableTraining(checkpoint, parts, checkpoint.with_suffix(".jsonl")), []
    for step in training.steps(num_steps, checkpoint_every, checkpoint.stem):
        recent.append(train_step(step))
        if (step + 1) % LOG_EVERY == 0 or step + 1 == num_steps:
            training.record({name: sum(row[name] for row in recent) / len(recent) for name in recent[0]})
            recent.clear()
