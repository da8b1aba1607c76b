"""The renderer: over-compositing, exact places, soft edges."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from halovid.world.render import (
    PICTURE_REACH,
    background_basis,
    background_colour,
    composite,
    light_ramp,
    palette,
    pictures_of,
    place_pictures,
    render_background,
    render_scene,
    sprite_layers,
    texture_at,
    texture_views,
    to_video,
)
from halovid.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    TEXTURE_SIZE,
    TEXTURES,
    Scene,
    SpriteSpec,
    sample_scene,
)
from halovid.world.worlds import PANORAMA, PLAIN, WORLDS, World

quick = settings(max_examples=30, deadline=None, derandomize=True)
places = st.floats(20, 44)
radii = st.floats(7, 11)
each_world = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


def sprite(shape: str = "circle", texture: str = "plain", colour: str = "white") -> SpriteSpec:
    return SpriteSpec("big", texture, colour, shape, "left")


def place(spec: SpriteSpec, x: float, y: float, radius: float) -> Tensor:
    """The layer of one sprite, [4, 64, 64]."""
    centre = torch.tensor([[[x, y]]], dtype=torch.float32)
    return place_pictures(pictures_of([spec]), centre, torch.tensor([radius]), 64)[0, 0]


def centroid(alpha: Tensor) -> tuple[float, float]:
    axis = torch.arange(alpha.shape[-1]) + 0.5
    total = alpha.sum()
    return float((alpha.sum(0) * axis).sum() / total), float((alpha.sum(1) * axis).sum() / total)


def random_layers(*shape: int) -> Tensor:
    """Premultiplied layers [..., 4, H, W]."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat([values[..., :3, :, :] * values[..., 3:, :, :], values[..., 3:, :, :]], -3)


def test_composite_is_the_over_operator_from_back_to_front() -> None:
    layers = random_layers(3, 2, 4, 5, 7)
    background = torch.rand(2, 3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = np.zeros((2, 3, 5, 7))
    for b, y, x in itertools.product(range(2), range(5), range(7)):
        colour = background[b, :, y, x].numpy()
        for layer in layers[:, b, :, y, x].numpy():
            alpha = layer[3]
            colour = alpha * (layer[:3] / alpha) + (1 - alpha) * colour
        expected[b, :, y, x] = colour
    np.testing.assert_allclose(composite(background, layers).numpy(), expected, rtol=1e-12)
    assert not torch.allclose(composite(background, layers), composite(background, layers.flip(0)))


def test_layers_may_be_put_on_in_two_steps() -> None:
    layers, background = random_layers(3, 4, 5, 7), random_layers(4, 5, 7)[:3]
    in_steps = composite(composite(background, layers[:1]), layers[1:])
    torch.testing.assert_close(composite(background, layers), in_steps)


def test_empty_layers_show_the_background_and_full_ones_hide_it() -> None:
    background = random_layers(4, 5, 7)[:3]
    assert torch.equal(composite(background, torch.zeros(0, 4, 5, 7)), background)
    torch.testing.assert_close(composite(background, torch.zeros(2, 4, 5, 7, dtype=torch.float64)), background)
    full = torch.ones(1, 4, 5, 7, dtype=torch.float64)
    full[0, :3] = 0.3
    torch.testing.assert_close(composite(background, full), full[0, :3])


def test_a_video_has_channels_before_frames_and_values_around_zero() -> None:
    frames = torch.rand(2, 5, 3, 7, 11, generator=torch.Generator().manual_seed(0))
    video = to_video(frames)
    assert video.shape == (2, 3, 5, 7, 11)
    torch.testing.assert_close(video[1, 2, 3], frames[1, 3, 2] * 2 - 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [7.0, 8.3, 11.0])
def test_a_sprite_has_the_place_and_area_of_its_picture(shape: str, radius: float) -> None:
    coverage = pictures_of([sprite(shape)])[0, 3]
    side = 2 * PICTURE_REACH * radius
    offset = (torch.tensor(centroid(coverage)) / len(coverage) - 0.5) * side
    area = float(coverage.mean()) * side**2
    for x, y in itertools.product(np.linspace(30, 31, 5), np.linspace(33.3, 34.3, 5)):
        alpha = place(sprite(shape), x, y, radius)[3]
        assert float(alpha.sum()) == pytest.approx(area, rel=0.03)
        centre = torch.tensor(centroid(alpha)) - offset
        assert centre.tolist() == pytest.approx([x, y], abs=0.15)  # most of it where an edge lies along a row of pixels


@quick
@given(places, places, radii)
def test_a_circle_is_exact_to_a_twentieth_of_a_pixel(x: float, y: float, radius: float) -> None:
    alpha = place(sprite("circle"), x, y, radius)[3]
    assert float(alpha.sum()) == pytest.approx(math.pi * (0.95 * radius) ** 2, rel=0.01)
    assert centroid(alpha) == pytest.approx((x, y), abs=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_soft_and_the_rest_is_not(shape: str) -> None:
    alpha = place(sprite(shape), 31.7, 32.4, 11.0)[3]
    assert 0 <= alpha.min() and alpha.max() <= 1
    edge = (alpha > 0.02) & (alpha < 0.98)
    outline = 2 * math.pi * 11
    assert outline < edge.sum() < 4 * outline  # about two pixels wide, all around; crosses and rings have longer ones
    assert (alpha >= 0.98).sum() > 0.25 * math.pi * 11**2


@quick
@given(places, places, radii, st.integers(-9, 9), st.integers(-9, 9))
def test_moving_a_sprite_by_whole_pixels_moves_its_layer(x: float, y: float, radius: float, dx: int, dy: int) -> None:
    here, there = place(sprite("cross"), x, y, radius), place(sprite("cross"), x + dx, y + dy, radius)
    moved = torch.roll(here, (dy, dx), dims=(1, 2))
    inside = slice(10, -10)  # what does not wrap around
    torch.testing.assert_close(there[:, inside, inside], moved[:, inside, inside], rtol=0, atol=1e-4)


def test_x_is_the_column_and_y_the_row() -> None:
    alpha = place(sprite("circle"), 20.0, 41.0, 7.0)[3]
    assert alpha[41, 20] > 0.999
    assert alpha[20, 41] == 0


def test_many_places_at_once_equal_one_by_one() -> None:
    specs = [sprite("ring", "checked"), sprite("square", "striped", "red")]
    centres = torch.rand(2, 5, 2, generator=torch.Generator().manual_seed(0)) * 64
    radius = torch.tensor([7.5, 10.2])
    together = place_pictures(pictures_of(specs), centres, radius, size=48)
    assert together.shape == (2, 5, 4, 48, 48)
    for i, k in itertools.product(range(2), range(5)):
        alone = place_pictures(pictures_of(specs[i : i + 1]), centres[i : i + 1, k : k + 1], radius[i : i + 1], 48)
        torch.testing.assert_close(together[i, k], alone[0, 0], rtol=0, atol=1e-6)


def test_a_sprite_outside_leaves_no_trace() -> None:
    assert (place(sprite("square"), -30.0, 32.0, 11.0) == 0).all()
    cut = place(sprite("square"), 0.0, 32.0, 11.0)[3]
    assert 0 < cut[:, :20].sum() < place(sprite("square"), 32.0, 32.0, 11.0)[3].sum()
    assert cut[:, 20:].sum() == 0


def test_pictures_are_premultiplied_and_all_different() -> None:
    specs = [sprite(*look) for look in itertools.product(SHAPES, TEXTURES, COLOURS)]
    pictures = pictures_of(specs)
    assert (pictures[:, :3] <= pictures[:, 3:] + 1e-6).all()
    assert (pictures >= 0).all()
    flat = pictures.flatten(1)
    distance = torch.cdist(flat, flat) / flat.shape[1] ** 0.5
    assert distance.fill_diagonal_(1).min() > 0.03
    assert pictures_of(specs[:1])[0, :3, 28, 28].tolist() == pytest.approx(palette()[0].tolist())


def light_of(scene: Scene) -> Tensor:
    """The light of a scene, [H, W]."""
    return light_ramp(torch.tensor(scene.slope, dtype=torch.float32), scene.world.frame_size)


def test_light_is_one_in_the_centre_and_changes_by_its_slope_to_the_edges() -> None:
    assert (light_ramp(torch.zeros(2), 64) == 1).all()
    ramp = light_ramp(torch.tensor([0.3, -0.2]), 64)
    torch.testing.assert_close(ramp[32] - 1, 0.3 * background_basis(64)[1, 32] - 0.2 * background_basis(64)[2, 32])
    assert ramp[32, -1] > 1.28 and ramp[-1, 32] < 0.82
    assert ramp.mean().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_a_plain_background_is_its_colour(name: str) -> None:
    scene = sample_scene(3, "train", PLAIN)
    scene = dataclasses.replace(scene, spec=dataclasses.replace(scene.spec, background=name))
    flat = render_background(scene)
    assert flat.shape == (1, 3, 64, 64)
    torch.testing.assert_close(flat[0], background_colour(name)[:, None, None].expand_as(flat[0]))


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_a_texture_repeats_and_is_as_often_dark_as_bright(name: str) -> None:
    axis = torch.arange(TEXTURE_SIZE) + 0.5
    texture = texture_at(name, axis[None], axis[:, None])
    for move in ((TEXTURE_SIZE, 0), (0, TEXTURE_SIZE), (-2 * TEXTURE_SIZE, TEXTURE_SIZE)):
        moved = texture_at(name, axis[None] + move[0], axis[:, None] + move[1])
        torch.testing.assert_close(moved, texture, rtol=0, atol=1e-4)
    assert not torch.allclose(texture_at(name, axis[None] + TEXTURE_SIZE / 2, axis[:, None]), texture, atol=0.1)
    assert texture.mean().abs() < 0.05
    assert -1 < texture.min() < -0.5 and 0.5 < texture.max() < 1


def test_no_two_backgrounds_have_one_texture_wherever_the_camera_looks() -> None:
    axis = torch.arange(TEXTURE_SIZE) + 0.5
    textures = torch.stack([texture_at(name, axis[None], axis[:, None]) for name in BACKGROUNDS])
    spectra = torch.fft.fft2(textures - textures.mean((1, 2), keepdim=True))
    sizes = textures.square().sum((1, 2)).sqrt()
    for first, second in itertools.combinations(range(len(BACKGROUNDS)), 2):
        overlaps = torch.fft.ifft2(spectra[first] * spectra[second].conj()).real  # at every shift
        assert overlaps.max() < 0.6 * sizes[first] * sizes[second]


def test_a_view_is_the_part_of_the_texture_that_begins_at_its_corner() -> None:
    axis = torch.arange(TEXTURE_SIZE) + 0.5
    whole = texture_at("plum", axis[None], axis[:, None])
    view = texture_views("plum", torch.tensor([[20.0, 7.0], [21.0, 7.0]]), 40)
    assert view.shape == (2, 40, 40)
    torch.testing.assert_close(view[0], whole[7:47, 20:60], rtol=0, atol=1e-4)  # x is the column
    torch.testing.assert_close(view[1, :, :-1], view[0, :, 1:], rtol=0, atol=1e-4)


def test_the_background_of_a_panorama_moves_with_the_camera() -> None:
    scene = sample_scene(11, "train", PANORAMA)
    scene = dataclasses.replace(scene, pan=np.array([1.0, 0.0]))
    background = render_background(scene)
    assert background.shape == (PANORAMA.num_frames, 3, 96, 96)
    torch.testing.assert_close(background[5, :, :, :-5], background[0, :, :, 5:], rtol=0, atol=1e-4)
    assert (background[5] - background[0]).abs().max() > 0.03
    colour = background_colour(scene.spec.background)[:, None, None] * PANORAMA.brightness
    relief = background / colour
    torch.testing.assert_close(relief[:, 0], relief[:, 1])  # lighter and darker, but of one hue
    assert relief.min() > 1 - PANORAMA.texture and relief.max() < 1 + PANORAMA.texture


@each_world
def test_a_scene_is_its_sprites_over_its_background_in_its_light(world: World) -> None:
    scene = sample_scene(11, "train", world)
    video = render_scene(scene)
    assert video.shape == (3, *world.clip_shape)
    assert video.min() >= -1 and video.max() <= 1
    assert torch.equal(video, render_scene(scene))
    free = sprite_layers(scene)[:, :, 3].amax(0) == 0
    background = to_video((render_background(scene) * light_of(scene)).expand(world.num_frames, -1, -1, -1))
    assert 0.2 < free.float().mean() < 0.9
    torch.testing.assert_close(video[:, free], background[:, free])


@each_world
def test_light_falls_on_sprites_in_the_panorama_world_alone(world: World) -> None:
    scene = sample_scene(11, "train", world)
    dark = dataclasses.replace(scene, slope=np.array([-0.2, -0.1]))
    even = dataclasses.replace(scene, slope=np.zeros(2))
    inside = sprite_layers(scene)[:, :, 3].amax(0) > 0.999
    lit, unlit = ((render_scene(one) + 1)[:, inside] / 2 for one in (dark, even))
    expected = (unlit * light_of(dark).expand_as(inside)[inside]).clamp(max=1) if world.lit else unlit
    assert 0.05 < inside.float().mean() < 0.5
    torch.testing.assert_close(lit, expected, rtol=0, atol=2e-3)  # a thousandth of the background shines through


@each_world
def test_layers_follow_the_paths_of_their_sprites(world: World) -> None:
    scene = sample_scene(12, "heldout", world)
    layers, paths = sprite_layers(scene), scene.paths()
    assert layers.shape == (len(paths), world.num_frames, 4, world.frame_size, world.frame_size)
    rows, columns = torch.meshgrid(*[torch.arange(world.frame_size) + 0.5] * 2, indexing="ij")
    for i, t in itertools.product(range(len(paths)), range(world.num_frames)):
        x, y = paths[i, t]
        outside = torch.hypot(columns - x, rows - y) > 1.4 * scene.radius[i] + 1
        assert layers[i, t, 3].sum() > scene.radius[i] ** 2
        assert (layers[i, t, :, outside] == 0).all()
