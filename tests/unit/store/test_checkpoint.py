"""Checkpoints: nested states come back, half-written ones never count."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import halovid.store.checkpoint
from halovid.store.checkpoint import load_checkpoint, load_tensors, save_checkpoint, save_tensors
from halovid.store.errors import InputError

quick = settings(max_examples=20, deadline=None, derandomize=True)
# keys that look alike as text, or hold the separators and words of the file's own layout
keys = st.sampled_from(["a", "b", "a/b", "0", "1", "tensor", "dict", ""]) | st.integers(0, 1)
leaves = st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=3) | st.booleans() | st.none()
tensors = st.integers(0, 1000).map(lambda seed: torch.arange(seed, seed + seed % 4, dtype=torch.float32))
states = st.recursive(
    leaves | tensors,
    lambda inner: st.dictionaries(keys, inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=9,
)


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected) and found.dtype == expected.dtype
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for own, other in zip(found, expected, strict=True):
            assert_same(own, other)
    else:
        assert found == expected


@quick
@given(st.dictionaries(keys, states, max_size=4))
def test_nested_states_come_back(tmp_path_factory: pytest.TempPathFactory, state: dict[Any, Any]) -> None:
    path = tmp_path_factory.mktemp("state") / "state.safetensors"
    save_checkpoint(path, state)
    assert_same(load_checkpoint(path), state)


def test_tensors_of_every_kind_come_back(tmp_path: Path) -> None:
    base = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    state = {
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 7),
        "turned": base.T,
        "shared": [base, base, base[1:]],
        "formats": [
            base.to(dtype) for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool)
        ],
        "trained": {"not finite": math.inf},
    }
    save_checkpoint(tmp_path / "c", state)
    assert_same(load_checkpoint(tmp_path / "c"), state)


def test_a_training_continues_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    def training() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
        groups = [{"params": module[0].parameters(), "lr": 0.1}, {"params": module[1].parameters()}]
        return module, torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.99))

    def step(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        inputs = torch.randn(7, 3, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        module(inputs).square().mean().backward()
        optimizer.step()

    module, optimizer = training()
    for seed in range(5):
        step(module, optimizer, seed)
        if seed == 2:
            save_checkpoint(tmp_path / "c", {"module": module.state_dict(), "optimizer": optimizer.state_dict()})
    state = load_checkpoint(tmp_path / "c")
    assert set(state["optimizer"]["state"]) == {0, 1, 2, 3}  # parameters are counted, so keys are integers
    resumed, resumed_optimizer = training()
    resumed.load_state_dict(state["module"])
    resumed_optimizer.load_state_dict(state["optimizer"])
    for seed in (3, 4):
        step(resumed, resumed_optimizer, seed)
    for own, other in zip(resumed.parameters(), module.parameters(), strict=True):
        assert torch.equal(own, other)


def test_a_checkpoint_is_a_copy(tmp_path: Path) -> None:
    weights = torch.ones(3, requires_grad=True)
    save_checkpoint(tmp_path / "c", {"weights": weights})
    with torch.no_grad():
        weights.zero_()
    loaded = load_checkpoint(tmp_path / "c")["weights"]
    assert loaded.tolist() == [1, 1, 1]
    assert not loaded.requires_grad


def test_an_error_while_saving_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c"
    save_checkpoint(path, {"step": 1, "weights": torch.ones(3)})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_checkpoint(path, {"step": 2, "odd": object()})

    def fail_half_way(tensors: object, target: Path, metadata: object) -> None:
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(halovid.store.checkpoint, "save_file", fail_half_way)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {"step": 3})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    save_checkpoint(path, {"weights": torch.ones(7), "step": 3})
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a readable checkpoint"):
            load_checkpoint(path)


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    halovid.store.checkpoint.save_file({"a": torch.ones(2)}, tmp_path / "c")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "c")


def test_a_byte_changed_anywhere_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c"
    save_checkpoint(path, {"weights": torch.ones(7), "more": torch.zeros(3, dtype=torch.bfloat16), "step": 3})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            state = load_checkpoint(path)
        except InputError:
            continue
        # spaces that fill the header up may change: they say nothing
        assert_same(state, {"weights": torch.ones(7), "more": torch.zeros(3, dtype=torch.bfloat16), "step": 3})


def test_equal_tensors_give_equal_bytes(tmp_path: Path) -> None:
    contents = set()
    for folder in "abcdefgh":  # safetensors orders the entries of its metadata at random
        save_tensors(tmp_path / folder / "file", {"x": torch.ones(2), "y": torch.zeros(3)}, "note")
        contents.add((tmp_path / folder / "file").read_bytes())
    assert len(contents) == 1


def test_a_file_is_not_taken_for_another(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a", {"x": torch.ones(2)})
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(InputError, match="b is damaged: its checksum does not fit"):
        load_tensors(tmp_path / "b")
