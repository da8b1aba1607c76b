"""Properties of the patch grid."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from halovid.maths.grid import (
    LatentGeometry,
    PatchGrid,
    membership,
    pool_cells,
    pool_pixels,
    spread_to_frames,
)

Shape = tuple[int, int, int]
sizes = st.sampled_from([1, 2, 3, 5, 7, 11])
shapes = st.tuples(sizes, sizes, sizes)
CAUSAL = LatentGeometry(temporal_stride=4, spatial_stride=8, causal_first_frame=True)
PLAIN = LatentGeometry(temporal_stride=3, spatial_stride=2, causal_first_frame=False)


def random_map(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def upsample(cells: Tensor, geometry: LatentGeometry) -> Tensor:
    """The pixels of a clip that shows its cell map [..., T, h, w]."""
    frames = torch.full((cells.shape[-3],), geometry.temporal_stride)
    if geometry.causal_first_frame:
        frames[0] = 1
    pixels = cells.repeat_interleave(frames, -3)
    wide = pixels.repeat_interleave(geometry.spatial_stride, -1)
    return wide.repeat_interleave(geometry.spatial_stride, -2)


@given(sizes, sizes)
def test_membership_is_the_exact_overlap(num_cells: int, num_parts: int) -> None:
    overlap = [
        [
            num_cells
            * max(
                Fraction(0),
                min(Fraction(cell + 1, num_cells), Fraction(part + 1, num_parts))
                - max(Fraction(cell, num_cells), Fraction(part, num_parts)),
            )
            for cell in range(num_cells)
        ]
        for part in range(num_parts)
    ]
    expected = torch.tensor([[float(share) for share in row] for row in overlap], dtype=torch.float64)
    torch.testing.assert_close(membership(num_cells, num_parts), expected, rtol=0, atol=1e-12)


@given(st.integers(1, 40), st.integers(1, 40))
def test_membership_divides_each_cell_wholly_and_all_parts_alike(num_cells: int, num_parts: int) -> None:
    shares = membership(num_cells, num_parts)
    assert shares.shape == (num_parts, num_cells)
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(0), torch.ones(num_cells, dtype=torch.float64))
    torch.testing.assert_close(shares.sum(1), torch.full((num_parts,), num_cells / num_parts, dtype=torch.float64))


@given(shapes, shapes)
def test_patch_means_of_a_constant_are_the_constant(cells: Shape, patches: Shape) -> None:
    grid = PatchGrid(*patches)
    expected = torch.full((2, *patches), 0.7)
    torch.testing.assert_close(pool_cells(torch.full((2, *cells), 0.7), grid), expected)
    for geometry in (CAUSAL, PLAIN):
        pixels = upsample(torch.full((2, *cells), 0.7), geometry)
        torch.testing.assert_close(pool_pixels(pixels, grid, geometry), expected)


@given(shapes)
def test_a_patch_per_cell_is_the_identity(cells: Shape) -> None:
    values = random_map(2, *cells)
    torch.testing.assert_close(pool_cells(values, PatchGrid(*cells)), values)


@given(shapes, shapes)
def test_patches_have_equal_weight_in_the_mean_of_the_clip(cells: Shape, patches: Shape) -> None:
    values = random_map(2, *cells)
    pooled = pool_cells(values, PatchGrid(*patches))
    torch.testing.assert_close(pooled.mean((1, 2, 3)), values.mean((1, 2, 3)))


@given(shapes, st.tuples(sizes, sizes, sizes), st.tuples(*[st.integers(1, 3)] * 3))
def test_coarse_patches_are_means_of_finer_ones(cells: Shape, coarse: Shape, factors: Shape) -> None:
    values = random_map(2, *cells)
    fine = [count * factor for count, factor in zip(coarse, factors, strict=True)]
    in_two_steps = pool_cells(pool_cells(values, PatchGrid(*fine)), PatchGrid(*coarse))
    torch.testing.assert_close(in_two_steps, pool_cells(values, PatchGrid(*coarse)))


@given(shapes, shapes)
def test_each_axis_is_pooled_along_itself(cells: Shape, patches: Shape) -> None:
    lines = [torch.arange(1.0, size + 1) for size in cells]
    values = torch.einsum("t,h,w->thw", *lines)
    each = zip(lines, patches, strict=True)
    pooled = [pool_cells(line[:, None, None], PatchGrid(count, 1, 1)).flatten() for line, count in each]
    expected = torch.einsum("t,h,w->thw", *pooled)
    torch.testing.assert_close(pool_cells(values, PatchGrid(*patches)), expected)


def test_a_cell_on_a_border_belongs_to_both_sides() -> None:
    cells = torch.tensor([1.0, 5.0, 9.0])[None, :, None]
    pooled = pool_cells(cells, PatchGrid(1, 2, 1)).flatten()
    assert pooled.tolist() == pytest.approx([(1 + 5 / 2) / 1.5, (5 / 2 + 9) / 1.5])


def test_the_first_frame_of_a_causal_family_is_alone() -> None:
    owner = CAUSAL.frame_membership(13)
    frames = [row.nonzero().flatten().tolist() for row in owner]
    assert frames == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    assert (owner.sum(0) == 1).all()
    assert CAUSAL.latent_shape(13, 64, 88) == (4, 8, 11)
    assert CAUSAL.latent_shape(1, 8, 8) == (1, 1, 1)


def test_frames_of_a_non_causal_family_form_equal_groups() -> None:
    owner = PLAIN.frame_membership(6)
    assert [row.nonzero().flatten().tolist() for row in owner] == [[0, 1, 2], [3, 4, 5]]
    assert PLAIN.latent_shape(6, 10, 14) == (2, 5, 7)


@given(sizes, st.sampled_from([1, 2, 3, 4, 7]), st.booleans())
def test_latent_shape_and_frame_membership_agree(num_latents: int, stride: int, causal: bool) -> None:
    geometry = LatentGeometry(stride, 2, causal)
    num_frames = 1 + stride * (num_latents - 1) if causal else stride * num_latents
    assert geometry.latent_shape(num_frames, 6, 10) == (num_latents, 3, 5)
    assert geometry.frame_membership(num_frames).shape == (num_latents, num_frames)


@given(shapes, shapes)
def test_pixels_of_a_cell_map_pool_like_the_map(cells: Shape, patches: Shape) -> None:
    values = random_map(2, *cells)
    pooled = pool_pixels(upsample(values, PLAIN), PatchGrid(*patches), PLAIN)
    torch.testing.assert_close(pooled, pool_cells(values, PatchGrid(*patches)))


@given(shapes, sizes, sizes)
def test_causal_pixels_pool_like_the_map_where_no_patch_mixes_latent_frames(
    cells: Shape, rows: int, columns: int
) -> None:
    values = random_map(2, *cells)
    grid = PatchGrid(cells[0], rows, columns)
    torch.testing.assert_close(pool_pixels(upsample(values, CAUSAL), grid, CAUSAL), pool_cells(values, grid))


def test_latent_frames_weigh_alike_in_a_patch_that_holds_the_first_one() -> None:
    frames = torch.arange(13.0)[:, None, None]
    pooled = pool_pixels(frames, PatchGrid(2, 1, 1), CAUSAL).flatten()  # latent frames 0, 1 | 2, 3
    assert pooled.tolist() == pytest.approx([(0 + 2.5) / 2, (6.5 + 10.5) / 2])


@given(sizes, sizes, sizes)
def test_spreading_is_undone_by_pooling(num_latents: int, rows: int, columns: int) -> None:
    patches = random_map(2, num_latents, rows, columns)
    grid = PatchGrid(num_latents, rows, columns)
    for geometry in (CAUSAL, PLAIN):
        num_frames = upsample(patches, geometry).shape[-3]
        frames = spread_to_frames(patches, num_frames, geometry)
        assert frames.shape == (2, num_frames, rows, columns)
        torch.testing.assert_close(pool_pixels(frames, grid, geometry), patches)


def test_a_frame_between_two_patches_shows_their_mean() -> None:
    patches = torch.tensor([1.0, 5.0])[:, None, None]  # border in the middle of the second of 3 latent frames
    shown = spread_to_frames(patches, 9, PLAIN).flatten()
    assert shown.tolist() == [1, 1, 1, 3, 3, 3, 5, 5, 5]


@pytest.mark.parametrize(
    ("geometry", "size", "message"),
    [
        (CAUSAL, (12, 64, 64), r"num_frames is 12.*4 \* k \+ 1"),
        (CAUSAL, (-3, 64, 64), "at least one frame and pixel"),
        (PLAIN, (13, 64, 64), "num_frames is 13.*multiple of 3"),
        (PLAIN, (9, 0, 64), "at least one frame and pixel"),
        (CAUSAL, (13, 60, 64), "60 x 64.*multiples of 8"),
        (CAUSAL, (13, 64, 60), "64 x 60.*multiples of 8"),
    ],
)
def test_sizes_with_a_rest_are_refused(geometry: LatentGeometry, size: Shape, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        geometry.latent_shape(*size)


@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 0, 3), (2, 3, -1)])
def test_a_grid_needs_a_patch_along_each_axis(shape: Shape) -> None:
    with pytest.raises(ValueError, match="at least one patch"):
        PatchGrid(*shape)


def test_shape_and_number_of_patches() -> None:
    assert PatchGrid(2, 3, 5).shape == (2, 3, 5)
    assert PatchGrid(2, 3, 5).num_patches == 30
