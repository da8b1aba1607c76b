"""A lack of memory is told as what it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import run_here
from halovid.cli import main as cli
from halovid.store.runtime import memory_trouble

HUGE = 10**15
TOLD = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB"


def test_what_torch_and_numpy_raise_is_recognised() -> None:
    for allocate in (torch.empty, np.empty):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate(HUGE)
        sentence = memory_trouble(caught.value)
        assert sentence is not None and "lower the batch_size" in sentence
    assert "on the CUDA device" in str(memory_trouble(torch.OutOfMemoryError(TOLD)))


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), ValueError("out of memory"), OSError(28, "full")])
def test_nothing_else_is(error: Exception) -> None:
    assert memory_trouble(error) is None


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(TOLD), MemoryError(), RuntimeError("not enough memory")])
def test_the_command_ends_with_one_sentence(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", run_out)
    outcome = run_here("run")
    assert outcome.code == 2
    assert outcome.stderr.startswith("error: there is not enough memory") and outcome.stderr.count("\n") == 1
    assert all(name in outcome.stderr for name in ("batch_size", "num_frames", "gradient_checkpointing"))


def test_other_errors_of_the_program_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        run_here("run")
