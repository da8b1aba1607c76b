"""The inspector against the truth, on rendered scenes that nothing was tuned on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from halovid.maths.grid import PatchGrid, pool_pixels
from halovid.maths.statistics import auroc
from halovid.world.backgrounds import fit_background
from halovid.world.corruptions import Event, render_corrupted, sample_events
from halovid.world.fitting import fit_clean
from halovid.world.inspector import GEOMETRY, Inspection, inspect, patch_distance
from halovid.world.render import render_layers, render_scene, sprite_layers
from halovid.world.scenes import COLOURS, SHAPES, Scene, SceneSpec, sample_scene
from halovid.world.worlds import PANORAMA, PLAIN, World

NUM_SCENES = {"plain": 24, "panorama": 8}  # a panorama takes about a second
FIRST_SEED = 730_000
GRID = PLAIN.patch_grid
THRESHOLD = PLAIN.defect_threshold
of_each_world = pytest.mark.parametrize("exam", [PLAIN, PANORAMA], ids=["plain", "panorama"], indirect=True)


@dataclass(frozen=True)
class Exam:
    """Held-out scenes of a world, clean and with corruptions of half of their sprites."""

    world: World
    scenes: list[Scene]
    clean: Tensor
    corrupted: Tensor
    of_clean: Inspection
    of_corrupted: Inspection

    @property
    def specs(self) -> list[SceneSpec]:
        return [scene.spec for scene in self.scenes]


@pytest.fixture(scope="module", params=[PLAIN], ids=["plain"])
def exam(request: pytest.FixtureRequest) -> Exam:
    world: World = request.param
    scenes = [sample_scene(FIRST_SEED + number, "heldout", world) for number in range(NUM_SCENES[world.name])]
    corrupted = []
    for number, scene in enumerate(scenes):
        rng = np.random.default_rng([FIRST_SEED, number])
        corrupted.append(render_corrupted(scene, sample_events(scene, rng, rate=0.5), rng))
    clips = [torch.stack([render_scene(scene) for scene in scenes]), torch.stack(corrupted)]
    specs = [scene.spec for scene in scenes]
    return Exam(world, scenes, *clips, *(inspect(video, specs, world.patch_grid) for video in clips))


def frames_of(video: Tensor) -> Tensor:
    return (video.transpose(1, 2) + 1) / 2


@of_each_world
def test_it_finds_the_defective_patches(exam: Exam) -> None:
    grid, threshold = exam.world.patch_grid, exam.world.defect_threshold
    truth = patch_distance(frames_of(exam.corrupted), frames_of(exam.clean), grid) > threshold
    assert exam.of_corrupted.world is exam.world
    assert 0.1 < truth.float().mean() < 0.4
    assert auroc(exam.of_corrupted.patch_defects.numpy(), truth.numpy()) >= 0.97
    detected = exam.of_corrupted.defective
    assert (detected & truth).sum() / truth.sum() > 0.9
    assert (detected & ~truth).sum() / (~truth).sum() < 0.05
    assert torch.equal(detected, exam.of_corrupted.patch_defects > threshold)


@pytest.mark.parametrize("exam", [PANORAMA], ids=["panorama"], indirect=True)
def test_a_panorama_s_defects_are_found_nearly_without_mistakes(exam: Exam) -> None:
    distance = patch_distance(frames_of(exam.corrupted), frames_of(exam.clean), PANORAMA.patch_grid)
    assert auroc(exam.of_corrupted.patch_defects.numpy(), (distance > PANORAMA.defect_threshold).numpy()) >= 0.999
    assert not exam.of_clean.defective.any()


@of_each_world
def test_it_raises_no_false_alarm_on_clean_clips(exam: Exam) -> None:
    assert exam.of_clean.defective.float().mean() <= 0.01
    assert exam.of_clean.patch_defects.mean() < 0.005


@of_each_world
def test_it_finds_paths_and_sizes_of_clean_clips(exam: Exam) -> None:
    scenes, specs, frames = exam.scenes[:12], exam.specs[:12], frames_of(exam.clean[:12])
    background = fit_background(frames, specs, exam.world)
    fit = fit_clean(frames / background.light, background, specs, exam.world)
    error = np.linalg.norm(fit.path.numpy() - np.stack([scene.paths() for scene in scenes]), axis=-1)
    assert np.median(error) < 0.05
    assert np.quantile(error, 0.95) < 0.5
    size_error = np.abs(fit.radius.numpy() - np.stack([scene.radius for scene in scenes]))
    assert np.median(size_error) < 0.05
    assert size_error.mean() < 0.1
    assert (fit.frames * background.light - frames).square().mean((1, 2, 3, 4)).median() < 1e-4


@of_each_world
def test_it_recognises_colours_and_shapes_of_clean_clips(exam: Exam) -> None:
    assert exam.of_clean.colour_right.float().mean() >= 0.95
    assert exam.of_clean.shape_right.float().mean() >= 0.95
    assert exam.of_clean.visibility.mean() > 0.8


@of_each_world
def test_it_measures_the_speed_of_clean_clips(exam: Exam) -> None:
    speeds = [np.linalg.norm(np.diff(scene.paths(), axis=1), axis=-1).mean() for scene in exam.scenes]
    assert np.abs(exam.of_clean.motion.numpy() / np.array(speeds) - 1).mean() < 0.1


@of_each_world
def test_jitter_is_no_motion(exam: Exam) -> None:
    assert exam.of_corrupted.motion.mean().item() == pytest.approx(exam.of_clean.motion.mean().item(), rel=0.05)


@of_each_world
def test_sprite_patches_are_those_that_sprites_cover(exam: Exam) -> None:
    coverage = torch.stack([sprite_layers(scene)[:, :, 3].amax(0) for scene in exam.scenes])
    truth = pool_pixels(coverage, exam.world.patch_grid, GEOMETRY) > 0.05
    assert (exam.of_clean.sprite_patches == truth).float().mean() > 0.98


def test_the_caption_of_another_scene_fits_far_worse(exam: Exam) -> None:
    wrong = inspect(exam.clean[:12], exam.specs[1:13], GRID)
    assert wrong.patch_defects.mean() > 20 * exam.of_clean.patch_defects.mean()
    assert (wrong.defective.float().mean((1, 2, 3)) > 0.15).all()
    assert wrong.colour_right.float().mean() < 0.6
    assert wrong.shape_right.float().mean() < 0.4
    assert wrong.visibility.mean() < 0.5 * exam.of_clean.visibility.mean()


@pytest.mark.parametrize(("attribute", "values"), [("colour", COLOURS), ("shape", SHAPES)])
def test_one_wrong_word_is_mostly_noticed(attribute: str, values: tuple[str, ...], exam: Exam) -> None:
    wrong, clips = [], []
    for clip, spec in enumerate(exam.specs[:3]):
        first, second, sprite, last = spec.sprites
        used = {sprite.shape, *(other.colour for other in spec.sprites)}
        for value in (value for value in values if value not in used):
            changed = dataclasses.replace(sprite, **{attribute: value})
            wrong.append(SceneSpec((first, second, changed, last), spec.background))
            clips.append(clip)
    inspection = inspect(exam.clean[clips], wrong, GRID)
    right = (inspection.colour_right if attribute == "colour" else inspection.shape_right).float().mean(0)
    assert right[2] < 0.15  # a ring is taken for a triangle now and then
    assert right[[0, 1, 3]].min() > 0.85


def test_a_missing_sprite_is_neither_right_in_colour_nor_in_shape(exam: Exam) -> None:
    clips = [render_layers(scene, sprite_layers(scene)[1:]) for scene in exam.scenes[:8]]
    inspection = inspect(torch.stack(clips), exam.specs[:8], GRID)
    assert not (inspection.colour_right | inspection.shape_right)[:, 0].any()
    assert (inspection.colour_right & inspection.shape_right)[:, 1:].float().mean() > 0.9
    assert inspection.visibility[:, 0].mean() < 0.2 < 0.8 < inspection.visibility[:, 1:].mean()


def test_flicker_is_told_from_a_steady_defect() -> None:
    scene = sample_scene(FIRST_SEED, "heldout")
    clean = render_scene(scene)
    spot = torch.zeros_like(clean)
    spot[:, :, 20:36, 20:36] = 0.5
    pulse = torch.arange(clean.shape[1])[None, :, None, None] % 2
    steady, flickering = inspect(
        torch.stack([clean + spot, clean + spot * pulse]), [scene.spec] * 2, GRID
    ).patch_flicker
    assert flickering.max() > THRESHOLD
    assert flickering.max() > 2 * steady[1:].max()


@of_each_world
def test_each_clip_is_inspected_by_itself(exam: Exam) -> None:
    together = exam.of_corrupted
    order = torch.tensor([5, 2, len(exam.scenes) // 2 - 1])
    alone = inspect(exam.corrupted[order], [exam.specs[i] for i in order.tolist()], exam.world.patch_grid)
    assert alone.world is together.world is exam.world
    for field in dataclasses.fields(Inspection):
        if field.name == "world":
            continue
        value, expected = getattr(alone, field.name), getattr(together, field.name)[order]
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=2e-3)


def test_another_grid_reads_the_same_clip(exam: Exam) -> None:
    for shape in ((2, 3, 5), (1, 1, 1)):
        inspection = inspect(exam.corrupted[:2], exam.specs[:2], PatchGrid(*shape))
        for value in (inspection.patch_defects, inspection.patch_flicker, inspection.sprite_patches):
            assert value.shape == (2, *shape)
    whole = exam.of_corrupted.patch_defects[:2].square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(inspection.patch_defects.flatten(), whole, rtol=1e-3, atol=1e-4)


def test_the_distance_is_blind_to_half_a_pixel_and_sees_a_patch() -> None:
    frames = frames_of(render_scene(sample_scene(1, "train"))[None])
    clean = frames.clone()
    assert (patch_distance(frames, clean, GRID) == 0).all()
    frames[:, 5:9, :, 16:32, 48:64] += 0.2
    distance = patch_distance(frames, clean, GRID)[0]
    assert distance.flatten().argmax() == 2 * 16 + 1 * 4 + 3  # second row, fourth column, frames 5..8
    assert distance[2, 1, 3] == pytest.approx(0.2, rel=0.1)
    assert (distance > THRESHOLD).sum() == 1


def test_a_short_small_defect_of_a_panorama_is_found_where_and_when_it_is() -> None:
    scene = sample_scene(FIRST_SEED, "heldout", PANORAMA)
    event = Event("noise", 1, 5, 9, away=(6.0, 4.0), reach=9.0)  # frames 5..8 are a latent frame
    video = render_corrupted(scene, [event], np.random.default_rng(0))
    inspection = inspect(video[None], [scene.spec], PANORAMA.patch_grid)
    x, y = ((scene.paths()[1, 7] + np.array(event.away)) / 16).astype(int)
    assert inspection.defective[0, 2, y, x]
    assert not inspection.defective[0, [0, 1, 3, 4]].any()
    assert inspection.defective.sum() <= 4
    assert inspection.motion.item() == pytest.approx(
        np.linalg.norm(np.diff(scene.paths(), axis=1), axis=-1).mean(), 0.1
    )


def test_a_camera_that_moves_is_no_motion_of_sprites() -> None:
    scene = sample_scene(FIRST_SEED, "heldout", PANORAMA)
    still, moving = (dataclasses.replace(scene, pan=np.array(pan)) for pan in ((0.0, 0.0), (1.0, -1.0)))
    inspection = inspect(torch.stack([render_scene(still), render_scene(moving)]), [scene.spec] * 2, GRID)
    assert not inspection.defective.any()
    assert inspection.motion[0].item() == pytest.approx(inspection.motion[1].item(), rel=0.01)


@pytest.mark.parametrize("shape", [(13, 64, 65), (12, 64, 64), (17, 64, 64), (13, 32, 64), (13, 96, 96)])
def test_clips_of_another_size_are_refused(shape: tuple[int, int, int]) -> None:
    spec = sample_scene(0, "train").spec
    with pytest.raises(ValueError, match=r"clips of the embedded worlds have .* got shape"):
        inspect(torch.zeros(1, 3, *shape), [spec], GRID)
