"""Boxes with time windows as patch labels: properties on any grid, and a few cases by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halovid.judges.vlm.boxes import MIN_OVERLAP, Box, covered_patches, overlap, touched_times
from halovid.maths.grid import LatentGeometry, PatchGrid, time_membership

WAN = LatentGeometry(4, 8, causal_first_frame=True)
PLAIN = LatentGeometry(1, 8, causal_first_frame=False)
quick = settings(max_examples=80, deadline=None, derandomize=True)
grids = st.builds(PatchGrid, st.integers(1, 4), st.integers(1, 5), st.integers(1, 7))
geometries = st.sampled_from([WAN, PLAIN])
FRAMES = 13


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    """Any box that a model may name: sides in thousandths."""
    first = draw(st.integers(0, FRAMES - 1))
    last = draw(st.integers(first, FRAMES - 1))
    left, top = draw(st.integers(0, 999)), draw(st.integers(0, 999))
    right, bottom = draw(st.integers(left + 1, 1000)), draw(st.integers(top + 1, 1000))
    return Box(first, last, left / 1000, top / 1000, right / 1000, bottom / 1000)


@quick
@given(boxes(), grids, geometries)
def test_an_overlap_is_a_share_and_every_box_speaks_of_a_patch(
    box: Box, grid: PatchGrid, geometry: LatentGeometry
) -> None:
    share = overlap(box, grid, FRAMES, geometry)
    assert share.shape == grid.shape
    assert (share >= 0).all() and (share <= 1).all()
    covered = covered_patches(box, grid, FRAMES, geometry)
    assert covered.any()
    assert (share[covered] > 0).all(), "a patch that the box does not touch is never covered"
    assert covered[share >= MIN_OVERLAP].all()


@quick
@given(grids, geometries)
def test_the_whole_clip_covers_all_patches(grid: PatchGrid, geometry: LatentGeometry) -> None:
    whole = Box(0, FRAMES - 1, 0, 0, 1, 1)
    torch.testing.assert_close(overlap(whole, grid, FRAMES, geometry), torch.ones(grid.shape, dtype=torch.float64))


@quick
@given(boxes(), grids, geometries)
def test_the_shares_of_a_box_add_up_to_it(box: Box, grid: PatchGrid, geometry: LatentGeometry) -> None:
    """Where the box is the smaller one everywhere, its shares in the patches sum to one."""
    patch = time_membership(FRAMES, grid.t, geometry).sum(1).min() / (grid.h * grid.w)
    size = (box.last_frame - box.first_frame + 1) * (box.right - box.left) * (box.bottom - box.top)
    if size <= patch:
        assert overlap(box, grid, FRAMES, geometry).sum().item() == pytest.approx(1)


@quick
@given(boxes(), st.integers(1, 5), st.integers(1, 7))
def test_mirrored_boxes_give_mirrored_labels(box: Box, rows: int, columns: int) -> None:
    grid = PatchGrid(2, rows, columns)
    mirrored = Box(box.first_frame, box.last_frame, 1 - box.right, box.top, 1 - box.left, box.bottom)
    torch.testing.assert_close(
        overlap(mirrored, grid, FRAMES, WAN), overlap(box, grid, FRAMES, WAN).flip(-1), rtol=0, atol=1e-9
    )


@quick
@given(st.data(), grids)
def test_a_box_of_exactly_one_patch_covers_it_alone(data: st.DataObject, grid: PatchGrid) -> None:
    num_frames = 3 * grid.t
    time, row, column = (data.draw(st.integers(0, parts - 1)) for parts in grid.shape)
    box = Box(3 * time, 3 * time + 2, column / grid.w, row / grid.h, (column + 1) / grid.w, (row + 1) / grid.h)
    covered = covered_patches(box, grid, num_frames, PLAIN)
    assert torch.nonzero(covered).tolist() == [[time, row, column]]


def test_time_is_divided_as_the_latents_are() -> None:
    # Wan: frame 0 has a latent frame of its own, so with four parts it is the first part alone
    grid = PatchGrid(4, 1, 1)
    for frame, time in ((0, 0), (1, 1), (4, 1), (5, 2), (12, 3)):
        share = overlap(Box(frame, frame, 0, 0, 1, 1), grid, FRAMES, WAN).flatten()
        assert share.tolist() == [float(index == time) for index in range(4)]


def test_a_small_defect_counts_fully_in_its_patch_and_a_large_box_in_all_it_fills() -> None:
    grid = PatchGrid(1, 1, 2)
    tiny = overlap(Box(3, 3, 0.1, 0.1, 0.11, 0.11), grid, FRAMES, PLAIN).flatten()
    assert tiny.tolist() == pytest.approx([1, 0])
    wide = overlap(Box(0, 12, 0.0, 0.0, 0.6, 1.0), grid, FRAMES, PLAIN).flatten()
    assert wide.tolist() == pytest.approx([1, 0.2])
    corner = Box(0, 12, 0.45, 0.45, 0.55, 0.55)  # a tenth of each of four patches: all alike, all covered
    assert covered_patches(corner, PatchGrid(1, 2, 2), FRAMES, PLAIN).all()


@quick
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda w: (min(w), max(w)))), st.integers(1, 6))
def test_touched_times_show_a_frame_of_a_window_and_the_others_do_not(
    windows: list[tuple[int, int]], parts: int
) -> None:
    touched = touched_times(windows, PatchGrid(parts, 2, 2), FRAMES, WAN)
    shown = time_membership(FRAMES, parts, WAN) > 0
    seen = {frame for first, last in windows for frame in range(first, last + 1)}
    expected = [part for part in range(parts) if any(shown[part, frame] for frame in seen)]
    assert touched == expected
