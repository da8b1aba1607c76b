"""Released (published) video reward models, in the layouts of the hub. One file per family."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from halovid.rewards.pretrained import load_base, load_config, load_tokenizer, local_folder, one_line
from halovid.rewards.released import videoreward, videoscore, videoscore_qwen2_vl
from halovid.rewards.released.base import (
    Head,
    LocalReward,
    ReleasedReward,
    ReleasedScore,
    Start,
    UnscoredError,
    read_json,
)
from halovid.store.errors import InputError
from halovid.store.runtime import announce
from halovid.store.troubles import raise_shortage

__all__ = [
    "RELEASED",
    "Head",
    "ReleasedReward",
    "ReleasedScore",
    "Start",
    "UnscoredError",
    "find_family",
    "load_released",
    "load_start",
    "model_config",
]

RELEASED: dict[str, Callable[[Path, str, torch.device, torch.dtype], LocalReward]] = {
    "videoscore": videoscore.VideoScore,
    "videoscore-qwen2-vl": videoscore_qwen2_vl.VideoScoreQwen2VL,
    "videoreward": videoreward.VideoReward,
}
_CPU = torch.device("cpu")
_ARCHITECTURES = {
    videoscore.ARCHITECTURE: "videoscore",
    videoscore_qwen2_vl.ARCHITECTURE: "videoscore-qwen2-vl",
}


def find_family(folder: Path) -> str | None:
    """The family (key of RELEASED) of the released model in a folder, by its files; None for any other folder."""
    if (folder / videoreward.CONFIG).exists():
        return "videoreward"
    if not (folder / "config.json").exists():
        return None
    architectures = read_json(folder / "config.json").get("architectures")
    return next((family for name, family in _ARCHITECTURES.items() if name in (architectures or ())), None)


def load_released(model: str, device: torch.device = _CPU, dtype: torch.dtype = torch.float32) -> LocalReward:
    """The released reward model of a folder or hub id.

    Raises:
        InputError: it is of no known family, or its files do not fit exactly.
    """
    folder = local_folder(model)
    family = find_family(folder)
    if family is None:
        raise InputError(
            f"{model!r} is no released reward model that is known here: {', '.join(RELEASED)} (by config.json or "
            f"{videoreward.CONFIG})"
        )
    announce(f"load {model}: {family}")
    try:
        return RELEASED[family](folder, model, device, dtype)
    except InputError:
        raise
    except Exception as error:  # damaged settings make transformers and torch raise whatever they happen to mean
        raise_shortage(error)
        raise InputError(
            f"{model!r} looks like the released reward model {family!r}, but can't be loaded ({one_line(error)}); "
            f"download it again"
        ) from error


def model_config(model: str) -> Any:
    """The transformers configuration of a plain or released model.

    Adapters have none: it is that of the base model that they adapt.

    Raises:
        InputError: it can't be read.
    """
    folder = local_folder(model)
    return load_config(str(videoreward.base_folder(folder) if find_family(folder) == "videoreward" else folder))


def load_start(model: str, kinds: Collection[str], dtype: torch.dtype) -> Start:
    """A language model to train: plain pretrained weights, or a released reward model.

    Raises:
        InputError: it can't be read or is of another kind than one of `kinds`.
    """
    folder = local_folder(model)
    if find_family(folder) is not None:
        return load_released(model, dtype=dtype).start()
    return Start(load_base(model, kinds, dtype), load_tokenizer(folder))
