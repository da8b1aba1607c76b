"""Small random pairs for tests of losses: error maps, margins, and exact patch means to compare with."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import torch
from torch import Tensor

from halovid.maths.losses import Margins, PairErrors

B, C, T, H, W = 2, 3, 5, 7, 11
GRID = (2, 3, 5)
ones = torch.ones(B, dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Numbers in 0..1, float64."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_errors(seed: int = 0, pairs: int = B) -> PairErrors:
    """Error maps that have nothing to do with each other."""
    return PairErrors(*random(6, pairs, T, H, W, seed=seed))


def make_margins(grid: tuple[int, int, int] = GRID, seed: int = 1) -> Margins:
    """The chosen clip is better, patches are either."""
    return Margins(random(B, seed=seed) + 0.1, random(B, *grid, seed=seed + 1) - 0.5)


def swap(errors: PairErrors) -> PairErrors:
    """The same pair with its clips exchanged."""
    return PairErrors(
        errors.rejected,
        errors.chosen,
        errors.ref_rejected,
        errors.ref_chosen,
        errors.drift_rejected,
        errors.drift_chosen,
    )


def region_means(cells: Tensor, grid: tuple[int, int, int]) -> np.ndarray:
    """Means of all patches of [B, T, h, w], from the exact overlap of each cell with each patch."""
    shares = []
    for size, parts in zip(cells.shape[1:], grid, strict=True):
        overlap = np.zeros((parts, size))
        for part, cell in product(range(parts), range(size)):
            share = min(Fraction(cell + 1, size), Fraction(part + 1, parts)) - max(
                Fraction(cell, size), Fraction(part, parts)
            )
            overlap[part, cell] = max(share, Fraction(0)) * parts
        shares.append(overlap)
    return np.einsum("btyx,it,jy,kx->bijk", cells.numpy(), *shares)


def minus_log_sigmoid(z: np.ndarray) -> np.ndarray:
    """-log sigmoid z."""
    return np.logaddexp(0, -z)


def reference_gaps(errors: PairErrors) -> Tensor:
    """How much more the policy prefers the rejected clip than the reference does."""
    return (errors.chosen - errors.ref_chosen) - (errors.rejected - errors.ref_rejected)
