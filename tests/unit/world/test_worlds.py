"""The worlds: told apart by the size of their clips."""

from __future__ import annotations

import pytest
import torch

from halovid.config.packaged import PACKAGED_SIZES
from halovid.world.inspector import GEOMETRY
from halovid.world.worlds import PANORAMA, PLAIN, WORLDS, World, size_problem, world_of

worlds = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


@worlds
def test_a_world_is_known_by_the_size_of_its_clips(world: World) -> None:
    assert world_of(world.clip_shape) is world
    assert world_of(torch.zeros(1, 3, *world.clip_shape).shape) is world
    assert size_problem(world.clip_shape) is None


def test_no_two_worlds_have_clips_of_one_size_or_one_name() -> None:
    assert len({world.clip_shape for world in WORLDS.values()}) == len(WORLDS)
    assert {name: world.name for name, world in WORLDS.items()} == {name: name for name in WORLDS}


@pytest.mark.parametrize("shape", [(13, 96, 96), (17, 64, 64), (17, 96, 95), (64, 64), (), (13, 64, 64, 1)])
def test_clips_of_no_world_are_told_the_sizes_of_all(shape: tuple[int, ...]) -> None:
    sizes = "13 frames of 64 x 64 pixels or 17 frames of 96 x 96 pixels"
    with pytest.raises(ValueError, match=sizes) as caught:
        world_of(shape)
    assert str(caught.value).endswith(f"got shape {shape}")
    assert size_problem(shape) == str(caught.value)


def test_recipes_know_the_sizes_of_the_worlds() -> None:
    assert PACKAGED_SIZES == {"world": PLAIN.clip_shape, "panorama": PANORAMA.clip_shape}


@worlds
def test_clips_of_a_world_are_whole_in_latent_cells_and_patches(world: World) -> None:
    cells = GEOMETRY.latent_shape(*world.clip_shape)
    assert all(cell % patch == 0 for cell, patch in zip(cells, world.patch_grid.shape, strict=True))
    assert world.frame_size % world.search_scale == 0


@worlds
def test_ranges_are_in_order_and_events_shorter_than_a_clip(world: World) -> None:
    ranges = [*world.radius.values(), world.speed, world.swing, world.event_frames]
    ranges += [world.event_reach] if world.event_reach else []
    assert all(0 < low <= high for low, high in ranges)
    assert world.radius["small"][1] < world.radius["big"][0]
    assert world.event_frames[1] <= world.num_frames
