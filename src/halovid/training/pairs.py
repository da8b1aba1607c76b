"""Preference pairs as a training reads them: the latents and prompts of their clips, and their margins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from halovid.clips.folder import ClipFolder, Row
from halovid.maths.grid import PatchGrid
from halovid.maths.losses import Margins
from halovid.models import DiffusionModel
from halovid.records import Conditioning
from halovid.store.errors import InputError


@dataclass(frozen=True)
class PairBatch:
    """B pairs.

    latents: [B, clips, C, T, h, w], the chosen clip and, where it is needed, the rejected one.
    conditioning: what the prompt makes the model do, a row per pair.  weight: [B], how much each pair counts.
    """

    latents: Tensor
    conditioning: Conditioning
    margins: Margins
    weight: Tensor

    def __len__(self) -> int:
        return len(self.latents)

    def rows(self, indices: Tensor) -> PairBatch:
        """Some of the pairs."""
        return PairBatch(
            self.latents[indices],
            self.conditioning.rows(indices),
            Margins(self.margins.clip[indices], self.margins.patches[indices]),
            self.weight[indices],
        )

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, to be saved."""
        return self.conditioning.tensors | {
            "latents": self.latents,
            "clip_margin": self.margins.clip,
            "patch_margins": self.margins.patches,
            "weight": self.weight,
        }


class PairSource:
    """The pairs of a table, whose clips are read when they are needed.

    Args:
        pairs: rows of tables.PAIRS.
        folders: where clips may be; "generate" holds the prompts.
        grid: the patches that the pairs have margins of.
        with_rejected: also read the rejected clips.

    Raises:
        InputError: there is no pair, a pair names a clip that no folder holds, or has margins of another grid.
    """

    def __init__(
        self,
        pairs: Sequence[Row],
        folders: Mapping[str, ClipFolder],
        grid: PatchGrid,
        device: torch.device,
        with_rejected: bool,
    ) -> None:
        self._pairs, self._folders, self._grid, self._device = pairs, folders, grid, device
        self._sides = ("chosen", "rejected") if with_rejected else ("chosen",)
        self._clips = {(name, row["clip_id"]): row for name, folder in folders.items() for row in folder.rows}
        unknown = self._used() - self._clips.keys()
        if unknown or not pairs:
            raise InputError(
                f"the pairs name clips that no folder of clips holds: {sorted(unknown)[:5]}; run `halovid pair` again"
                if unknown
                else "there are no pairs to learn from; lower pair.min_margin, or give more prompts or candidates"
            )
        sizes = {len(pair["patch_margins"]) for pair in pairs}
        if sizes != {grid.num_patches}:
            raise InputError(
                f"the pairs have {sorted(sizes)} patches, the recipe's grid {grid.shape} has {grid.num_patches}; "
                f"run `halovid score` and `halovid pair` again, or set grid back"
            )

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def has_missing_latents(self) -> bool:
        """Whether a clip has been imported, so that `encode_latents` has something to do."""
        return any(self._clips[clip]["latents"] is None for clip in self._used())

    def encode_latents(self, model: DiffusionModel, folder: Path) -> None:
        """Makes the latents of imported clips, which come without any, in `folder`."""
        used = self._used()
        for name, clips in self._folders.items():
            clips.encode_latents([row for row in clips.rows if (name, row["clip_id"]) in used], model, folder / name)

    def batch(self, indices: Sequence[int]) -> PairBatch:
        """The pairs at these places of the table, on the device."""
        pairs = [self._pairs[index] for index in indices]
        latents = [torch.stack([self._latents(pair, side) for side in self._sides]) for pair in pairs]
        conditioning = self._folders["generate"].conditioning([pair["prompt_id"] for pair in pairs])
        patches = torch.tensor([pair["patch_margins"] for pair in pairs]).unflatten(1, self._grid.shape)
        clip = torch.tensor([pair["clip_margin"] for pair in pairs])
        return PairBatch(
            torch.stack(latents).to(self._device),
            conditioning.to(self._device),
            Margins(clip.to(self._device), patches.to(self._device)),
            torch.tensor([pair["weight"] for pair in pairs], device=self._device),
        )

    def _latents(self, pair: Row, side: str) -> Tensor:
        """[C, T, h, w]."""
        folder, clip_id = _clip_of(pair, side)
        return self._folders[folder].latents(self._clips[folder, clip_id])

    def _used(self) -> set[tuple[str, str]]:
        """Folder and name of every clip that is read."""
        return {_clip_of(pair, side) for pair in self._pairs for side in self._sides}


def _clip_of(pair: Row, side: str) -> tuple[str, str]:
    """The folder and the name of the chosen or the rejected clip of a pair."""
    return pair[f"{side}_folder"], pair[side]
