"""Corruptions: where they may be seen, where not, and what each does."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from halovid.world.corruptions import CORRUPTIONS, KINDS, Event, render_corrupted, sample_events
from halovid.world.inspector import patch_distance
from halovid.world.render import render_scene, sprite_layers
from halovid.world.scenes import NUM_SPRITES, Scene, sample_scene
from halovid.world.worlds import PANORAMA, PLAIN, WORLDS, World

NUM_SCENES = 12
FIRST, LAST = 4, 9
REACH = 18  # pixels that a corruption may reach beyond its sprite's disc
each_world = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


def scene_and_event(kind: str, number: int, world: World = PLAIN) -> tuple[Scene, Event]:
    return sample_scene(4000 + number, "train", world), Event(kind, number % NUM_SPRITES, FIRST, LAST)


def distances(world: World, points: np.ndarray) -> Tensor:
    """How far each pixel is from a point of each frame, [frames, H, W]; points are [frames, 2] x, y."""
    axis = torch.arange(world.frame_size) + 0.5
    x, y = torch.tensor(points).T[:, :, None, None]
    return torch.hypot(axis - x, axis[:, None] - y)


def corrupt(kind: str, layer: Tensor, seed: int = 0) -> Tensor:
    return CORRUPTIONS[kind](layer, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def layer() -> Tensor:
    """A big sprite alone, 5 frames in the middle of its way: [5, 4, 64, 64]."""
    return sprite_layers(sample_scene(17, "train"))[1, FIRST:LAST].clone()


@each_world
@pytest.mark.parametrize("kind", KINDS)
def test_a_corruption_is_seen_in_its_frames_near_its_sprite_and_nowhere_else(kind: str, world: World) -> None:
    visible = []
    for number in range(NUM_SCENES):
        scene, event = scene_and_event(kind, number, world)
        clean = render_scene(scene)
        change = render_corrupted(scene, [event], np.random.default_rng(number)) - clean
        assert (change[:, :FIRST] == 0).all()
        assert (change[:, LAST:] == 0).all()
        far = distances(world, scene.paths()[event.sprite, FIRST:LAST]).amin(0) > scene.radius[event.sprite] + REACH
        assert far.any()
        assert (change[:, :, far].abs() < 0.02).all()
        error = patch_distance((change / 2).transpose(0, 1)[None], torch.zeros(1), world.patch_grid)
        visible.append(error.max() > world.defect_threshold)
    assert sum(visible) >= NUM_SCENES - 2  # a thin smear on a ground of its own brightness lies below the threshold


@pytest.mark.parametrize("kind", KINDS)
def test_a_corruption_with_a_reach_is_seen_in_its_disc_alone(kind: str) -> None:
    """The disc moves with the sprite; what is outside stays bit for bit what it was."""
    visible = []
    for number in range(NUM_SCENES):
        scene, whole = scene_and_event(kind, number, PANORAMA)
        away, reach = (5.0 - number, 0.7 * number), 8.0
        event = replace(whole, away=away, reach=reach)
        clean = render_scene(scene)
        in_disc, everywhere = (render_corrupted(scene, [e], np.random.default_rng(number)) for e in (event, whole))
        distance = distances(PANORAMA, scene.paths()[event.sprite, FIRST:LAST] + np.array(away))
        outside, inside = distance >= reach + 1, distance <= reach - 1
        assert torch.equal(in_disc[:, FIRST:LAST][:, outside], clean[:, FIRST:LAST][:, outside])
        torch.testing.assert_close(in_disc[:, FIRST:LAST][:, inside], everywhere[:, FIRST:LAST][:, inside])
        assert torch.equal(in_disc[:, :FIRST], clean[:, :FIRST]) and torch.equal(in_disc[:, LAST:], clean[:, LAST:])
        visible.append((in_disc - clean).abs().max() > 0.2)
    assert sum(visible) >= NUM_SCENES // 2  # a ghost stands beside its sprite, where the disc may not be


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_clips(kind: str) -> None:
    scene, event = scene_and_event(kind, 1)
    first, again, other = (render_corrupted(scene, [event], np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_defective_layer_is_still_a_layer(kind: str, layer: Tensor) -> None:
    before = layer.clone()
    for seed in range(5):
        after = corrupt(kind, layer, seed)
        assert after.shape == layer.shape
        assert (after >= -1e-6).all()
        assert (after[:, 3] <= 1 + 1e-6).all()
        assert (after[:, :3] <= after[:, 3:] + 1e-5).all()  # premultiplied
        assert (after - before).abs().max() > 0.1
    assert torch.equal(layer, before)


@each_world
def test_a_clip_without_events_is_clean(world: World) -> None:
    scene = sample_scene(3, "heldout", world)
    assert torch.equal(render_corrupted(scene, [], np.random.default_rng(0)), render_scene(scene))


def test_events_of_different_sprites_do_not_disturb_each_other() -> None:
    scene = sample_scene(5, "train")
    events = [Event("ghost", 0, 1, 6), Event("ghost", 2, 7, 12)]
    with_both, with_first = (render_corrupted(scene, shown, np.random.default_rng(0)) for shown in (events, events[:1]))
    assert torch.equal(with_both[:, :7], with_first[:, :7])
    assert torch.equal(with_both[:, 12:], with_first[:, 12:])
    assert not torch.equal(with_both[:, 7:12], with_first[:, 7:12])


def test_a_jerking_sprite_is_whole_but_leaves_its_path_and_comes_back(layer: Tensor) -> None:
    centred = layer.roll((20, -13), dims=(2, 3))  # into the middle: whatever the way, it stays in the frame
    after = corrupt("jerk", centred)
    torch.testing.assert_close(after.sum((2, 3)), centred.sum((2, 3)), rtol=0.03, atol=0.1)
    away = [not torch.allclose(one, other, atol=1e-4) for one, other in zip(after, centred, strict=True)]
    assert 2 <= sum(away) <= 3


def test_a_flickering_sprite_keeps_its_colours_and_comes_and_goes(layer: Tensor) -> None:
    after = corrupt("flicker", layer)
    share = (after.sum((1, 2, 3)) / layer.sum((1, 2, 3)))[:, None, None, None]
    torch.testing.assert_close(after, layer * share)
    away, there = share.flatten() < 0.5, share.flatten() > 0.7
    assert (away | there).all()
    assert away.any() and there.any()


def test_a_smeared_sprite_keeps_its_mass_over_a_larger_area(layer: Tensor) -> None:
    after = corrupt("smear", layer)
    torch.testing.assert_close(after.sum((2, 3)), layer.sum((2, 3)), rtol=0.03, atol=0.1)  # an end may leave the frame
    assert ((after[:, 3] > 0.05).sum((1, 2)) > 1.3 * (layer[:, 3] > 0.05).sum((1, 2))).all()


def test_a_melting_sprite_runs_down(layer: Tensor) -> None:
    def bottom(one: Tensor) -> Tensor:
        return ((one[:, 3] > 0.5).any(-1) * torch.arange(PLAIN.frame_size)).amax(-1)

    assert (bottom(corrupt("melt", layer)) > bottom(layer) + 2).all()


def test_a_ghost_stands_beside_its_sprite(layer: Tensor) -> None:
    after = corrupt("ghost", layer)
    opaque = (layer[:, 3:] > 0.999).expand_as(layer)
    torch.testing.assert_close(after[opaque], layer[opaque], rtol=0, atol=2e-3)
    beside = (after[:, 3] > 0.3) & (layer[:, 3] == 0)
    assert (beside.sum((1, 2)) > 30).all()


@pytest.mark.parametrize("kind", ["bleed", "noise"])
def test_a_stain_covers_the_sprite_and_more(kind: str, layer: Tensor) -> None:
    after = corrupt(kind, layer)
    inside = layer[:, 3] > 0.999
    changed = (after - layer).abs().amax(1) > 0.1
    assert changed[inside].float().mean() > 0.6
    assert ((after[:, 3] > 0.3).sum((1, 2)) > (layer[:, 3] > 0.3).sum((1, 2))).all()
    of_a_still = corrupt(kind, layer[:1].expand_as(layer))
    assert torch.equal(of_a_still, of_a_still[:1].expand_as(layer)) == (kind == "bleed")  # noise comes in new blocks


def test_events_befall_each_sprite_of_the_plain_world_at_most_once_and_whole() -> None:
    rng = np.random.default_rng(0)
    scenes, events = [sample_scene(seed, "train") for seed in range(10)], []
    for number in range(300):
        drawn = sample_events(scenes[number % 10], rng, rate=0.3)
        assert [event.sprite for event in drawn] == sorted({event.sprite for event in drawn})
        events += drawn
    assert len(events) == pytest.approx(0.3 * 300 * NUM_SPRITES, abs=60)  # four standard deviations
    assert min(event.last - event.first for event in events) >= 9
    assert {(event.reach, event.away) for event in events} == {(math.inf, (0.0, 0.0))}
    counts = Counter(event.kind for event in events)
    assert set(counts) == set(KINDS)
    assert min(counts.values()) > 20


def test_events_of_the_panorama_world_are_many_short_and_small_except_ghosts() -> None:
    rng = np.random.default_rng(0)
    scenes, events = [sample_scene(seed, "train", PANORAMA) for seed in range(10)], []
    for number in range(60):
        drawn = sample_events(scenes[number % 10], rng, rate=0.5)
        assert max(Counter(event.sprite for event in drawn).values()) <= PANORAMA.event_tries
        events += [(event, scenes[number % 10].radius[event.sprite]) for event in drawn]
    tries = 60 * NUM_SPRITES * PANORAMA.event_tries
    assert len(events) == pytest.approx(tries / 2, abs=2 * tries**0.5)  # four standard deviations
    assert {event.last - event.first for event, _ in events} == set(range(3, 9))
    assert {event.kind for event, _ in events} == set(KINDS)
    for event, radius in events:
        if event.kind == "ghost":
            assert (event.reach, event.away) == (math.inf, (0.0, 0.0))
        else:
            assert 7 <= event.reach <= 12
            assert 0.3 * radius <= math.hypot(*event.away) <= radius


@each_world
def test_events_are_of_the_clip_s_sprites_and_frames_and_reach_both_ends(world: World) -> None:
    scene, rng = sample_scene(2, "train", world), np.random.default_rng(0)
    events = [event for _ in range(60) for event in sample_events(scene, rng, rate=0.8)]
    assert {event.sprite for event in events} == set(range(NUM_SPRITES))
    assert all(0 <= event.first < event.last <= world.num_frames for event in events)
    assert min(event.first for event in events) == 0 and max(event.last for event in events) == world.num_frames


def test_the_rate_of_events_may_be_none_or_all() -> None:
    scene, rng = sample_scene(2, "train"), np.random.default_rng(0)
    assert sample_events(scene, rng, rate=0) == []
    assert [event.sprite for event in sample_events(scene, rng, rate=1)] == list(range(NUM_SPRITES))
    assert sample_events(scene, np.random.default_rng(7), 0.5) == sample_events(scene, np.random.default_rng(7), 0.5)
