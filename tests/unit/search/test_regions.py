"""Which patches of a clip are made anew, by their rewards."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from halovid.maths.grid import PatchGrid
from halovid.search.regions import defective_regions, latent_mask

GRID = (4, 5, 6)


def rewards_with(*defective: tuple[int, int, int]) -> Tensor:
    """Rewards [t, h, w] of 5, and of 1 in these patches."""
    rewards = torch.full(GRID, 5.0)
    for patch in defective:
        rewards[patch] = 1.0
    return rewards


TILES = PatchGrid(1, 2, 2)
SINGLE = PatchGrid(*GRID)


@pytest.mark.parametrize("regions", [TILES, SINGLE])
def test_a_clip_without_a_defect_has_no_region(regions: PatchGrid) -> None:
    assert defective_regions(rewards_with(), 4.4, regions, dilation=2) == []


def test_a_single_patch_is_a_region_and_grows_on_all_sides() -> None:
    [alone] = defective_regions(rewards_with((1, 2, 3)), 4.4, SINGLE, dilation=0)
    assert alone.nonzero().tolist() == [[1, 2, 3]]
    [grown] = defective_regions(rewards_with((1, 2, 3)), 4.4, SINGLE, dilation=1)
    assert grown.sum() == 27 and bool(grown[:3, 1:4, 2:5].all())


def test_a_column_is_as_long_as_the_clip_and_judged_by_its_worse_half() -> None:
    columns = PatchGrid(1, 5, 6)
    [column] = defective_regions(rewards_with((1, 0, 0), (3, 0, 0)), 4.4, columns, dilation=0)
    assert bool(column[:, 0, 0].all()) and column.sum() == GRID[0]
    one_noisy_reward = rewards_with()
    one_noisy_reward[0, 0, 0] = 4.0  # with the next worse one a mean of 4.5
    assert defective_regions(one_noisy_reward, 4.4, columns, dilation=0) == []


def test_a_tile_is_defective_as_a_whole_and_by_itself() -> None:
    [tile] = defective_regions(rewards_with((0, 0, 5), (1, 0, 5)), 4.4, TILES, dilation=0)
    assert bool(tile[:, :2, 3:].all()) and tile.sum() == 4 * 2 * 3  # the row in the middle is in the lower half
    corners = rewards_with((0, 0, 0), (1, 0, 0), (0, 4, 5), (1, 4, 5))
    assert len(defective_regions(corners, 4.4, TILES, dilation=0)) == 2


def test_a_refused_clip_has_no_region() -> None:
    assert defective_regions(torch.full(GRID, torch.nan), 4.4, TILES, dilation=1) == []


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(0, 2))
def test_every_column_below_the_threshold_is_in_a_region(seed: int, t: int, h: int, w: int, dilation: int) -> None:
    rewards = 5 * torch.rand(GRID, generator=torch.Generator().manual_seed(seed))
    covered = torch.zeros(GRID, dtype=torch.bool)
    for mask in defective_regions(rewards, 1.0, PatchGrid(t, h, w), dilation):
        covered |= mask
    assert bool(covered[:, (rewards < 1.0).all(0)].all())


def test_cells_belong_to_the_patch_that_their_centre_lies_in() -> None:
    regions = torch.zeros(2, 2, 2, dtype=torch.bool)
    regions[0, 0, 1] = True
    cells = latent_mask(regions, (3, 4, 5))  # a patch has 1.5 x 2 x 2.5 cells
    assert cells.shape == (3, 4, 5)
    assert cells.nonzero().tolist() == [[0, row, column] for row in (0, 1) for column in (2, 3, 4)]
    assert latent_mask(torch.ones(2, 2, 2, dtype=torch.bool), (3, 4, 5)).min() == 1
