"""Checkpoints of a training: nested state dicts as one safetensors file, written atomically.

Tensors are stored as tensors; everything else (step counters, parameter groups) as JSON in the file's
metadata. No pickles.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from halovid.store.errors import InputError
from halovid.store.files import atomic_path


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a nested state of dicts, lists, tensors and JSON values; a reader never sees half a file."""
    tensors: dict[str, Tensor] = {}
    skeleton = _detach(state, tensors)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"state": json.dumps(skeleton)})


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The nested state that `save_checkpoint` wrote.

    Raises:
        InputError: the file is truncated or not a checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as file:
            skeleton = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a readable checkpoint ({error}); delete it to start again") from error
    return _attach(skeleton, tensors)


def _detach(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value with every tensor replaced by a reference to its number in `tensors`."""
    if isinstance(value, Tensor):
        name = str(len(tensors))  # not its path: two paths can read alike, as {"a": {"b": x}, "a/b": y}
        tensors[name] = value.detach().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):  # a list of pairs, since JSON keys are strings and optimisers count parameters
        return {"dict": [[key, _detach(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_detach(item, tensors) for item in value]
    return value


def _attach(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `_detach`; tuples come back as lists."""
    if isinstance(value, list):
        return [_attach(item, tensors) for item in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _attach(item, tensors) for key, item in value["dict"]}
    return value
