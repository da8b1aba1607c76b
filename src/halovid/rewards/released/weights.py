"""Weights of releases: files of either kind, strict assignment, LoRA pairs merged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from halovid.rewards.pretrained import check_keys
from halovid.store.errors import InputError
from halovid.store.troubles import raise_shortage


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.pth` file; only tensors are ever unpickled.

    Raises:
        InputError: it is missing, damaged or holds other things than tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file torch raises whatever its bytes happen to mean
        raise_shortage(error)
        raise InputError(f"{path} is missing, damaged or no plain state dict; download the model again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} must hold tensors by name; download the model again")
    return state


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise_shortage(error)
        raise InputError(f"{path} is missing or damaged ({error}); download the model again") from error


def read_tensors(folder: Path, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Some tensors of a model folder, whose weights are one safetensors file or several with an index.

    Where a folder has the one file and the index, the one file is read, as transformers does.

    Raises:
        InputError: one is not there.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    try:
        if single.exists():
            files = dict.fromkeys(names, single)
        else:
            files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        tensors = {}
        for name in names:
            with safe_open(folder / Path(files[name]).name, framework="pt") as file:
                tensors[name] = file.get_tensor(name)
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise_shortage(error)
        raise InputError(f"the weights in {folder} lack {', '.join(names)} ({error})") from error
    return tensors


def assign(module: Any, state: dict[str, Tensor], source: str) -> None:
    """Loads a state whose names and shapes must be exactly those of the module.

    Raises:
        InputError: they are not; the first ones are named.
    """
    needed = module.state_dict()
    misshapen = [
        f"{name} {tuple(state[name].shape)} for {tuple(needed[name].shape)}"
        for name in needed.keys() & state.keys()
        if needed[name].shape != state[name].shape
    ]
    check_keys(source, needed.keys() - state.keys(), state.keys() - needed.keys(), misshapen)
    module.load_state_dict(state)


def merge_lora(
    state: dict[str, Tensor], rank: int, alpha: float, rank_stabilised: bool, source: str
) -> dict[str, Tensor]:
    """A state with every LoRA pair added to the weight that it adapts, in float32 and back.

    Takes the names of peft with or without an adapter's name in them: `X.lora_A[.default].weight`,
    `X.lora_B[.default].weight`, `X.base_layer.weight` (or `X.weight`).

    Raises:
        InputError: a pair is incomplete, has another rank, or adapts a weight that is not there.
    """
    plain = {name.replace(".base_layer.", "."): value for name, value in state.items() if ".lora_" not in name}
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if ".lora_" in name:
            layer, _, matrix = name.partition(".lora_")  # "A.weight", "B.default.weight"
            pairs.setdefault(layer, {})[matrix.partition(".")[0]] = value
    scale = alpha / (math.sqrt(rank) if rank_stabilised else rank)
    for layer, pair in pairs.items():
        weight = plain.get(f"{layer}.weight")
        shapes = {name: tuple(value.shape) for name, value in pair.items()}
        if weight is None or weight.dim() != 2 or shapes != {"A": (rank, weight.shape[1]), "B": (len(weight), rank)}:
            raise InputError(
                f"the LoRA pair of {layer} does not fit in {source}: it needs A and B of rank {rank} and {layer}.weight"
            )
        merged = weight.float() + scale * pair["B"].float() @ pair["A"].float()
        plain[f"{layer}.weight"] = merged.to(weight.dtype)
    return plain
