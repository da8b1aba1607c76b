"""Tensors on disk with a checksum, and checkpoints of a training: nested state dicts as one safetensors file.

Tensors are stored as tensors; everything else (step counters, parameter groups) as JSON in the file's
metadata. No pickles. Files are written atomically and know their own name, so that one is not taken for another.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from halovid.store.errors import InputError
from halovid.store.files import atomic_path
from halovid.store.troubles import raise_shortage

_ABOUT = "halovid"  # what the metadata holds: a note, the file's name and a checksum


def save_tensors(path: Path, tensors: dict[str, Tensor], note: str = "") -> None:
    """Writes tensors by name, and a text beside them; `load_tensors` notices every change of the file."""
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    about = {"note": note, "name": path.name}
    about["checksum"] = _checksum(stored, about)
    with atomic_path(path) as temporary:  # one entry of metadata: safetensors writes several in any order
        save_file(stored, temporary, metadata={_ABOUT: json.dumps(about, sort_keys=True)})


def load_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors that `save_tensors` wrote, and the text beside them.

    Raises:
        InputError: the file is missing, damaged or was written under another name.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = dict(json.loads((file.metadata() or {})[_ABOUT]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise_shortage(error)
        raise InputError(f"{path} is missing or damaged ({error})") from error
    checksum = about.pop("checksum", None)
    if about.get("name") != path.name or checksum != _checksum(tensors, about):
        raise InputError(f"{path} is damaged: its checksum does not fit")
    return tensors, about["note"]


def is_readable(path: Path) -> bool:
    """Whether there is an undamaged file of tensors."""
    try:
        load_tensors(path)
    except InputError:
        return False
    return True


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a nested state of dicts, lists, tensors and JSON values; a reader never sees half a file."""
    tensors: dict[str, Tensor] = {}
    skeleton = _detach(state, tensors)
    save_tensors(path, tensors, json.dumps(skeleton))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The nested state that `save_checkpoint` wrote.

    Raises:
        InputError: the file is damaged or not a checkpoint.
    """
    try:
        tensors, skeleton = load_tensors(path)
        return _attach(json.loads(skeleton), tensors)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a readable checkpoint ({error}); delete it to start again") from error


def _checksum(tensors: dict[str, Tensor], about: dict[str, str]) -> str:
    """SHA-256 of names, types, shapes and bytes of tensors, and of what is said about them; hexadecimal."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
