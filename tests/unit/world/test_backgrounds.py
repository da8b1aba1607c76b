"""Backgrounds are found behind whatever sprites and corruptions cover them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from halovid.world.backgrounds import BEND, BEND_DEGREE, Background, fit_background, time_powers
from halovid.world.corruptions import render_corrupted, sample_events
from halovid.world.render import composite, light_ramp, render_background, render_scene, sprite_layers, texture_views
from halovid.world.scenes import BACKGROUNDS, Scene, sample_scene
from halovid.world.worlds import PANORAMA, PLAIN, WORLDS, World

NUM_SCENES = 16
FIRST_SEED = 910_000
each_world = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


@dataclass(frozen=True)
class Exam:
    """Scenes with many corruptions, of all backgrounds in turn, and the backgrounds that were found in their clips."""

    scenes: list[Scene]
    frames: Tensor
    found: Background

    @property
    def light(self) -> Tensor:
        """The true light of each clip, [B, H, W]."""
        slopes = np.stack([scene.slope for scene in self.scenes])
        return light_ramp(torch.tensor(slopes, dtype=torch.float32), self.frames.shape[-1])

    @property
    def background(self) -> Tensor:
        """The true background of each clip in its light, [B, F, 3, H, W]; [B, 1, 3, H, W] of a plain one."""
        return torch.stack([render_background(scene) for scene in self.scenes]) * self.light[:, None, None]


def make_exam(world: World) -> Exam:
    scenes, clips = [], []
    for number in range(NUM_SCENES):
        scene = sample_scene(FIRST_SEED + number, "heldout", world)
        spec = dataclasses.replace(scene.spec, background=BACKGROUNDS[number % len(BACKGROUNDS)])
        scene, rng = dataclasses.replace(scene, spec=spec), np.random.default_rng([FIRST_SEED, number])
        scenes.append(scene)
        clips.append(render_corrupted(scene, sample_events(scene, rng, 0.7), rng))
    frames = (torch.stack(clips).transpose(1, 2) + 1) / 2
    return Exam(scenes, frames, fit_background(frames, [scene.spec for scene in scenes], world))


@pytest.fixture(scope="module")
def panorama() -> Exam:
    return make_exam(PANORAMA)


@pytest.fixture(scope="module")
def plain() -> Exam:
    return make_exam(PLAIN)


def test_the_background_of_a_corrupted_panorama_is_found_to_a_hundredth(panorama: Exam) -> None:
    assert panorama.found.picture.shape == (NUM_SCENES, *render_background(panorama.scenes[0]).shape)
    error = (panorama.found.picture * panorama.found.light - panorama.background).abs()
    assert error.max() < 0.01
    assert error.mean() < 0.001


def test_the_light_of_a_panorama_is_told_from_its_texture(panorama: Exam) -> None:
    light = panorama.found.light
    assert light.shape == (NUM_SCENES, 1, 1, 96, 96)
    assert (light[:, 0, 0] - panorama.light).abs().max() < 0.01
    assert (panorama.light - 1).abs().max() > 0.2


@pytest.mark.parametrize("seed", [50, 75, 83])
def test_strong_light_does_not_make_another_place_of_the_texture_look_nearer(seed: int) -> None:
    """Textures nearly repeat: these scenes were taken for others before the light was known."""
    scene = sample_scene(seed, "heldout", PANORAMA)
    frames = (render_scene(scene).transpose(0, 1)[None] + 1) / 2
    found = fit_background(frames, [scene.spec], PANORAMA)
    assert np.abs(scene.slope).max() > 0.18
    assert (found.picture[0] - render_background(scene)).abs().max() < 0.003


def test_the_background_of_a_corrupted_plain_clip_is_found_with_its_light(plain: Exam) -> None:
    assert plain.found.picture.shape == (NUM_SCENES, 1, 3, 64, 64)
    assert (plain.found.picture - plain.background).abs().max() < 0.01
    assert torch.equal(plain.found.light, torch.ones(NUM_SCENES, 1, 1, 1, 1))


@each_world
def test_another_background_than_the_caption_s_is_not_found(world: World, request: pytest.FixtureRequest) -> None:
    exam: Exam = request.getfixturevalue(world.name)
    specs = []
    for scene in exam.scenes[:4]:
        others = [name for name in BACKGROUNDS if name != scene.spec.background]
        specs.append(dataclasses.replace(scene.spec, background=others[0]))
    wrong = fit_background(exam.frames[:4], specs, world)
    error = (wrong.picture * wrong.light - exam.background[:4]).square().mean((1, 2, 3, 4)).sqrt()
    assert (error > 0.05).all()


@each_world
def test_each_clip_has_the_background_that_it_has_alone(world: World, request: pytest.FixtureRequest) -> None:
    exam: Exam = request.getfixturevalue(world.name)
    alone = fit_background(exam.frames[5:6], [exam.scenes[5].spec], world)
    torch.testing.assert_close(alone.picture[0], exam.found.picture[5], rtol=0, atol=1e-3)
    torch.testing.assert_close(alone.light[0], exam.found.light[5], rtol=0, atol=1e-3)


def test_a_camera_that_strays_smoothly_is_followed() -> None:
    """A generator's camera is not quite even: to follow it is no defect."""
    scene = sample_scene(FIRST_SEED, "heldout", PANORAMA)
    time = np.linspace(-1, 1, PANORAMA.num_frames)[:, None]
    views = torch.tensor(scene.views() + BEND / 2 * np.concatenate([time**2, -(time**3)], 1), dtype=torch.float32)
    even, bent = (
        texture_views(scene.spec.background, torch.as_tensor(view, dtype=torch.float32), PANORAMA.frame_size)[:, None]
        for view in (scene.views(), views)
    )
    background = render_background(scene) * (1 + PANORAMA.texture * bent) / (1 + PANORAMA.texture * even)
    found = fit_background(composite(background, sprite_layers(scene))[None], [scene.spec], PANORAMA)
    assert (render_background(scene) - background).abs().max() > 0.02
    assert (found.picture[0] * found.light[0] - background).abs().max() < 0.005


def test_time_is_counted_from_minus_one_to_one() -> None:
    powers = time_powers(PLAIN, BEND_DEGREE)
    assert powers.shape == (BEND_DEGREE + 1, PLAIN.num_frames)
    assert (powers[0] == 1).all()
    torch.testing.assert_close(powers[1], torch.linspace(-1, 1, PLAIN.num_frames))
    torch.testing.assert_close(powers[3], powers[1] ** 3)
