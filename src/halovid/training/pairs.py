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
    """B preference pairs, each of two clips of one prompt.

    latents: [B, 2, C, T, h, w], the chosen and the rejected clip; [B, 1, ...] without the rejected clips.
    conditioning: that of the prompts, a row per pair.  weight: [B], factors of the pairs' losses.
    """

    latents: Tensor
    conditioning: Conditioning
    margins: Margins
    weight: Tensor

    def __len__(self) -> int:
        return len(self.latents)

    def rows(self, indices: Tensor) -> PairBatch:
        """The pairs of these indices, [n]."""
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
    """The pairs of a table; latents and conditionings are read from disk batch by batch.

    Args:
        pairs: rows of tables.PAIRS.
        folders: clip folders by the names that pairs use; "generate" holds the conditionings of all prompts.
        grid: the patches that the pairs have margins of.
        device: receives the batches.
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
        self._clip_rows = {(name, row["clip_id"]): row for name, folder in folders.items() for row in folder.rows}
        if not pairs:
            raise InputError(
                "there are no pairs to learn from; lower pair.min_margin, or give more prompts or candidates"
            )
        missing = self._clips_in_pairs() - self._clip_rows.keys()
        if missing:
            raise InputError(
                f"the pairs name clips that no folder of clips holds: {sorted(missing)[:5]}; run `halovid pair` again"
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
        """Whether a clip was imported without latents, so that `encode_latents` must be called before `batch`."""
        return any(self._clip_rows[clip]["latents"] is None for clip in self._clips_in_pairs())

    def encode_latents(self, model: DiffusionModel, folder: Path) -> None:
        """Encodes the clips that were imported without latents, and writes their latents to `folder`."""
        in_pairs = self._clips_in_pairs()
        for name, clips in self._folders.items():
            rows = [row for row in clips.rows if (name, row["clip_id"]) in in_pairs]
            clips.encode_latents(rows, model, folder / name)

    def batch(self, indices: Sequence[int]) -> PairBatch:
        """The pairs in these rows of the table, on the device."""
        pairs = [self._pairs[index] for index in indices]
        latents = [torch.stack([self._latents(pair, side) for side in self._sides]) for pair in pairs]
        conditioning = self._folders["generate"].conditioning([pair["prompt_id"] for pair in pairs])
        clip_margins = torch.tensor([pair["clip_margin"] for pair in pairs])
        patch_margins = torch.tensor([pair["patch_margins"] for pair in pairs]).unflatten(1, self._grid.shape)
        return PairBatch(
            torch.stack(latents).to(self._device),
            conditioning.to(self._device),
            Margins(clip_margins.to(self._device), patch_margins.to(self._device)),
            torch.tensor([pair["weight"] for pair in pairs], device=self._device),
        )

    def _latents(self, pair: Row, side: str) -> Tensor:
        """The latents of the "chosen" or "rejected" clip of a pair, [C, T, h, w]."""
        folder, clip_id = _clip_of(pair, side)
        return self._folders[folder].latents(self._clip_rows[folder, clip_id])

    def _clips_in_pairs(self) -> set[tuple[str, str]]:
        """Folder and id of every clip that `batch` may read."""
        return {_clip_of(pair, side) for pair in self._pairs for side in self._sides}


def _clip_of(pair: Row, side: str) -> tuple[str, str]:
    """Folder and id of the "chosen" or "rejected" clip of a pair."""
    return pair[f"{side}_folder"], pair[side]
