"""Pairs as a training reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from halovid.maths.grid import PatchGrid
from halovid.records import Conditioning
from halovid.store.errors import InputError
from halovid.training.pairs import PairSource

GRID = PatchGrid(1, 1, 2)
CPU = torch.device("cpu")
PAIR = {"prompt_id": "p", "chosen": "a", "chosen_folder": "good", "rejected": "a", "rejected_folder": "generate"} | {
    "clip_margin": 0.5,
    "patch_margins": [1.0, -1.0],
    "weight": 2.0,
}


class Folder:
    """A clip folder whose latents are one number each; it notes what is read."""

    def __init__(self, **clips: float | None) -> None:
        self.rows = [{"clip_id": name, "latents": value} for name, value in clips.items()]
        self.read: list[str] = []
        self.encoded: list[tuple[list[str], Path]] = []

    def latents(self, row: dict[str, Any]) -> Tensor:
        self.read.append(row["clip_id"])
        return torch.full((2, 3, 4, 4), row["latents"])

    def conditioning(self, prompt_ids: list[str]) -> Conditioning:
        return Conditioning({"prompt_embeds": torch.tensor([[[float(len(name))]] for name in prompt_ids])})

    def encode_latents(self, rows: list[dict[str, Any]], generator: object, folder: Path) -> None:
        self.encoded.append(([row["clip_id"] for row in rows], folder))


def source(pairs: list[dict[str, Any]], with_rejected: bool = True, **folders: Folder) -> PairSource:
    return PairSource(pairs, folders, GRID, CPU, with_rejected)  # type: ignore[arg-type]


def test_clips_of_one_name_are_told_apart_by_their_folder() -> None:
    folders = {"generate": Folder(a=1.0, b=2.0), "good": Folder(a=3.0)}
    pairs = source([PAIR, PAIR | {"rejected": "b", "clip_margin": 0.25, "prompt_id": "long"}], **folders)
    assert len(pairs) == 2
    batch = pairs.batch([1, 0, 1])
    assert batch.latents.shape == (3, 2, 2, 3, 4, 4)
    assert batch.latents[:, :, 0, 0, 0, 0].tolist() == [[3, 2], [3, 1], [3, 2]]
    assert batch.conditioning.tensors["prompt_embeds"][:, 0, 0].tolist() == [4, 1, 4]
    assert batch.margins.clip.tolist() == [0.25, 0.5, 0.25] and batch.weight.tolist() == [2, 2, 2]
    assert batch.margins.patches.shape == (3, *GRID.shape) and batch.margins.grid == GRID


def test_rejected_clips_that_nobody_needs_are_not_read(tmp_path: Path) -> None:
    folders = {"generate": Folder(a=1.0), "good": Folder(a=3.0, c=None)}
    pairs = source([PAIR | {"rejected": "missing"}], with_rejected=False, **folders)
    assert pairs.batch([0]).latents.shape == (1, 1, 2, 3, 4, 4)
    assert (folders["good"].read, folders["generate"].read) == (["a"], [])
    pairs.encode_latents(None, tmp_path)  # type: ignore[arg-type]
    assert folders["good"].encoded == [(["a"], tmp_path / "good")]
    assert folders["generate"].encoded == [([], tmp_path / "generate")]


def test_rows_of_a_batch() -> None:
    batch = source([PAIR, PAIR | {"weight": 3.0}], generate=Folder(a=1.0), good=Folder(a=3.0)).batch([0, 1])
    some = batch.rows(torch.tensor([1]))
    assert len(some) == 1 and some.weight.tolist() == [3]
    assert some.tensors().keys() == {"latents", "prompt_embeds", "clip_margin", "patch_margins", "weight"}
    assert all(len(value) == 1 for value in some.tensors().values())


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "there are no pairs"),
        ([PAIR | {"chosen": "x"}], r"no folder of clips holds: \[\('good', 'x'\)\]"),
        ([PAIR | {"patch_margins": [1.0]}], r"the pairs have \[1\] patches, the recipe's grid \(1, 1, 2\) has 2"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(pairs: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        source(pairs, generate=Folder(a=1.0), good=Folder(a=3.0))
