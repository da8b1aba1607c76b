"""What the tests of the world's trainings share: a work folder of a few clips, and trainings that are killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from halovid.store.checkpoint import load_checkpoint
from halovid.world_training import clips, generator
from halovid.world_training.plans import PLANS, Plan

NUM_CLIPS = 4


def render_work(folder: Path, monkeypatch: pytest.MonkeyPatch, plan: Plan = PLANS["plain"]) -> Path:
    """The folder, with two shards of two rendered clips; shards stay so small as long as the test runs."""
    for module in (clips, generator):
        monkeypatch.setattr(module, "SHARD_SIZE", NUM_CLIPS // 2)
    clips.render_shards(plan, folder / "clips", range(2))
    return folder


def kill_at(call: int, module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the call-th call of module.name a kill."""
    real, calls = getattr(module, name), 0

    def wrapped(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, name, wrapped)


def assert_resumes(train: Callable[[Path], None], folder: Path, name: str, kill: Callable[[], None]) -> None:
    """A training that is killed and called again ends like one that is not."""
    whole, killed = folder / "whole", folder / "killed"
    whole.mkdir(exist_ok=True)
    killed.mkdir(exist_ok=True)
    train(whole)
    kill()
    with pytest.raises(KeyboardInterrupt):
        train(killed)
    train(killed)
    first, second = (load_checkpoint(path / name)["model"] for path in (whole, killed))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
