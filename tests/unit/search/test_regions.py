"""Which patches of a clip are made anew, by their rewards."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from halovid.search.regions import defective_regions, latent_mask

GRID = (4, 5, 6)


def rewards_with(*defective: tuple[int, int, int]) -> Tensor:
    """Rewards [t, h, w] of 5, and of 1 in these patches."""
    rewards = torch.full(GRID, 5.0)
    for patch in defective:
        rewards[patch] = 1.0
    return rewards


@pytest.mark.parametrize("region", ["columns", "patches"])
def test_a_clip_without_a_defect_has_no_region(region: Literal["columns", "patches"]) -> None:
    assert defective_regions(rewards_with(), 4.4, region, dilation=2) == []


def test_a_patch_is_a_region_of_its_own_and_grows_on_all_sides() -> None:
    [alone] = defective_regions(rewards_with((1, 2, 3)), 4.4, "patches", dilation=0)
    assert alone.nonzero().tolist() == [[1, 2, 3]]
    [grown] = defective_regions(rewards_with((1, 2, 3)), 4.4, "patches", dilation=1)
    assert grown.sum() == 27 and bool(grown[:3, 1:4, 2:5].all())


def test_a_column_is_as_long_as_the_clip_and_judged_by_its_worse_half() -> None:
    [column] = defective_regions(rewards_with((1, 0, 0), (3, 0, 0)), 4.4, "columns", dilation=0)
    assert bool(column[:, 0, 0].all()) and column.sum() == GRID[0]
    one_noisy_reward = rewards_with()
    one_noisy_reward[0, 0, 0] = 4.0  # with the next worse one a mean of 4.5
    assert defective_regions(one_noisy_reward, 4.4, "columns", dilation=0) == []


def test_patches_that_touch_at_a_corner_are_one_region_and_others_are_not() -> None:
    touching = rewards_with((0, 0, 0), (1, 1, 1), (0, 4, 5))
    assert sorted(int(mask.sum()) for mask in defective_regions(touching, 4.4, "patches", dilation=0)) == [1, 2]


def test_a_refused_clip_has_no_region() -> None:
    assert defective_regions(torch.full(GRID, torch.nan), 4.4, "patches", dilation=1) == []


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.sampled_from(["columns", "patches"]), st.integers(0, 2))
def test_regions_do_not_overlap_and_hold_every_defective_patch(
    seed: int, region: Literal["columns", "patches"], dilation: int
) -> None:
    rewards = 5 * torch.rand(GRID, generator=torch.Generator().manual_seed(seed))
    regions = defective_regions(rewards, 1.0, region, dilation)
    covered = sum((mask.int() for mask in regions), torch.zeros(GRID, dtype=torch.int))
    assert int(covered.max()) <= 1
    if region == "patches":
        assert bool((covered[rewards < 1.0] == 1).all())


def test_cells_belong_to_the_patch_that_most_of_them_lies_in() -> None:
    regions = torch.zeros(2, 2, 2, dtype=torch.bool)
    regions[0, 0, 1] = True
    cells = latent_mask(regions, (3, 4, 5))  # a patch has 1.5 x 2 x 2.5 cells; those on a border are halved
    assert cells.shape == (3, 4, 5)
    assert cells[0].sum() == 2 * 2 and bool((cells[0, :2, 3:] == 1).all())
    assert latent_mask(torch.ones(2, 2, 2, dtype=torch.bool), (3, 4, 5)).min() == 1
