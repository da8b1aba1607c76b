"""Steps that are counted, logged and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from halovid.store.errors import InputError
from halovid.store.resumable import ResumableTraining


class Counter:
    """A part whose state is one number."""

    def __init__(self) -> None:
        self.value = torch.zeros(1)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.value.copy_(state_dict["value"])


def run(
    folder: Path, total: int, every: int, stop: int | None = None, writes: bool = True
) -> tuple[Counter, list[int]]:
    """Counts up to `total`, killed in the step `stop`; the counter and the steps that were done."""
    counter, seen = Counter(), []
    training = ResumableTraining(folder / "state.safetensors", {"counter": counter}, folder / "log.jsonl", writes)
    for step in training.steps(total, every, "count"):
        if step == stop:
            break
        seen.append(step)
        counter.value += step
        training.record({"value": counter.value.item()})
    return counter, seen


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stop", [0, 1, 2, 5, 6])
def test_it_continues_from_its_last_checkpoint(stop: int, tmp_path: Path) -> None:
    run(tmp_path, 7, 2, stop)
    counter, seen = run(tmp_path, 7, 2)
    assert seen == list(range(stop // 2 * 2, 7))
    assert counter.value == sum(range(7))
    assert log(tmp_path) == [{"step": step + 1, "value": sum(range(step + 1))} for step in range(7)]


def test_a_training_that_is_through_does_nothing_more(tmp_path: Path) -> None:
    run(tmp_path, 3, 10)
    before = log(tmp_path)
    (tmp_path / "log.jsonl").unlink()
    assert run(tmp_path, 3, 10)[1] == []
    assert log(tmp_path) == before


def test_no_steps_are_an_empty_log(tmp_path: Path) -> None:
    assert run(tmp_path, 0, 1)[1] == []
    assert log(tmp_path) == []


def test_a_process_that_does_not_write_leaves_nothing(tmp_path: Path) -> None:
    run(tmp_path, 3, 1, writes=False)
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    run(tmp_path, 3, 1)
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match="delete it to start again"):
        run(tmp_path, 3, 1)
