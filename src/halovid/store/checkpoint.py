"""Tensors on disk with a checksum, and checkpoints of a training: nested state dicts as one safetensors file.

Tensors are stored as tensors; everything else (step counters, parameter groups) as JSON in the file's metadata. No
pickles. Files are written atomically and hold their own name, so that a renamed copy is not taken for another file.
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

_HEADER = "halovid"  # key of the metadata: JSON with a note, the file's name and a checksum


def save_tensors(path: Path, tensors: dict[str, Tensor], note: str = "") -> None:
    """Writes tensors by name, and a text beside them; `load_tensors` notices every change of the file."""
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header = {"note": note, "name": path.name}
    header["checksum"] = _checksum(stored, header)
    with atomic_path(path) as temporary:  # one entry of metadata: safetensors writes several in any order
        save_file(stored, temporary, metadata={_HEADER: json.dumps(header, sort_keys=True)})


def load_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors that `save_tensors` wrote, and the text beside them.

    Raises:
        InputError: the file is missing, damaged or was written under another name.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(json.loads((file.metadata() or {})[_HEADER]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise_shortage(error)
        raise InputError(f"{path} is missing or damaged ({error})") from error
    checksum = header.pop("checksum", None)
    if header.get("name") != path.name or checksum != _checksum(tensors, header):
        raise InputError(f"{path} is damaged: its checksum does not fit")
    return tensors, header["note"]


def is_readable(path: Path) -> bool:
    """Whether `path` is an undamaged file of `save_tensors`."""
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


def _checksum(tensors: dict[str, Tensor], header: dict[str, str]) -> str:
    return checksum_of_tensors(tensors, json.dumps(header, sort_keys=True))


def checksum_of_tensors(tensors: dict[str, Tensor], text: str) -> str:
    """SHA-256 of a text and of the names, types, shapes and bytes of tensors on the CPU; hexadecimal."""
    digest = hashlib.sha256(text.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _detach(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value with every tensor replaced by {"tensor": its name in `tensors`}, where the tensor is put."""
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
