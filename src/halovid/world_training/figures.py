"""The figures that a packaged generator is judged by, and the validation of the inspector in its world."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from halovid.clips.prompts import load_prompts
from halovid.config.run import PromptsConfig
from halovid.maths import statistics
from halovid.models import PARTS, DiffusionModel, load_model
from halovid.store.runtime import batches, progress
from halovid.world.captions import parse_caption
from halovid.world.corruptions import KINDS, render_corrupted, sample_events
from halovid.world.critic import load_critic
from halovid.world.inspector import inspect, patch_distance
from halovid.world.render import render_scene
from halovid.world.scenes import Scene, sample_scene
from halovid.world.worlds import World
from halovid.world_training.plans import Plan

FIRST_SEED = 20_000_000  # scenes that nothing else uses
_BATCH = 32


def measure(plan: Plan, num_prompts: int, model: str | None = None) -> dict[str, dict[str, float]]:
    """All figures: of the inspector on rendered clips, of the autoencoder, of generated clips.

    Args:
        model: the folder of a pipeline that is measured instead of the packaged one.
    """
    generator = load_model(plan.generator_config(model), PARTS, torch.device("cpu"), torch.float32)
    return {
        "inspector": measure_inspector(plan, num_prompts),
        "autoencoder": measure_autoencoder(plan.world, generator, num_prompts),
        "generator": measure_generator(plan.world, generator, num_prompts),
    }


def measure_inspector(plan: Plan, num_scenes: int) -> dict[str, float]:
    """Patch AUROC against the distance from the true clean clip, and false alarms on clean clips."""
    defects, true_distances, alarms, grid = [], [], [], plan.world.patch_grid
    with progress("inspector", num_scenes) as advance:
        for seeds in batches(range(FIRST_SEED, FIRST_SEED + num_scenes), _BATCH):
            scenes = [sample_scene(seed, "heldout", plan.world) for seed in seeds]
            specs = [scene.spec for scene in scenes]
            clean = torch.stack([render_scene(scene) for scene in scenes])
            corrupted = torch.stack(
                [_corrupted(scene, seed, plan.corruption_rate) for scene, seed in zip(scenes, seeds, strict=True)]
            )
            defects.append(inspect(corrupted, specs, grid).patch_defects)
            true_distances.append(patch_distance(_frames(corrupted), _frames(clean), grid))
            alarms.append(inspect(clean, specs, grid).defective)
            advance(len(scenes))
    defective = torch.cat(true_distances) > plan.world.defect_threshold
    return {
        "patch AUROC": statistics.auroc(torch.cat(defects).numpy(), defective.numpy()),
        "false alarms on clean clips": torch.cat(alarms).float().mean().item(),
        "share of defective patches": defective.float().mean().item(),
    }


def _corrupted(scene: Scene, seed: int, rate: float) -> Tensor:
    """The clip of a scene with corruptions that depend on the seed, [3, F, H, W] in [-1, 1]."""
    rng = np.random.default_rng([seed, 5])
    return render_corrupted(scene, sample_events(scene, rng, rate), rng)


def measure_autoencoder(world: World, generator: DiffusionModel, num_scenes: int) -> dict[str, float]:
    """PSNR of reconstructions of clean clips, and how many of their patches the inspector calls defective."""
    errors, alarms = [], []
    with progress("autoencoder", num_scenes) as advance:
        for seeds in batches(range(FIRST_SEED, FIRST_SEED + num_scenes), _BATCH):
            scenes = [sample_scene(seed, "heldout", world) for seed in seeds]
            clean = torch.stack([render_scene(scene) for scene in scenes])
            decoded = generator.decode_video(generator.encode_video(clean))
            errors.append((decoded - clean).square().mean((1, 2, 3, 4)) / 4)
            alarms.append(inspect(decoded, [scene.spec for scene in scenes], world.patch_grid).defective)
            advance(len(scenes))
    return {
        "PSNR, dB": -10 * torch.cat(errors).log10().mean().item(),
        "clean patches called defective": torch.cat(alarms).float().mean().item(),
    }


def measure_generator(world: World, generator: DiffusionModel, num_prompts: int) -> dict[str, float]:
    """What the generator makes of held-out prompts: defects, their kinds, text alignment, motion."""
    prompts, _ = load_prompts(PromptsConfig(split="heldout", count=num_prompts, seed=2))
    inspections, kinds = [], []
    with progress("generator", num_prompts) as advance:
        for batch in batches(prompts, _BATCH):
            texts = [prompt.text for prompt in batch]
            latents = generator.sample(generator.encode_prompts(texts), list(range(len(texts))))
            video = generator.decode_video(latents)
            inspections.append(inspect(video, [parse_caption(text) for text in texts], world.patch_grid))
            kinds.append(load_critic(world).kinds(video, world.patch_grid))
            advance(len(batch))
    sprites = torch.cat([inspection.sprite_patches for inspection in inspections])
    defective = torch.cat([inspection.defective for inspection in inspections]) & sprites
    kind = torch.cat(kinds)[defective]
    return {
        "sprite patches defective": (defective.sum() / sprites.sum()).item(),
        "colour right": torch.cat([inspection.colour_right for inspection in inspections]).float().mean().item(),
        "shape right": torch.cat([inspection.shape_right for inspection in inspections]).float().mean().item(),
        "motion, pixels per frame": torch.cat([inspection.motion for inspection in inspections]).mean().item(),
    } | {f"share of {name}": (kind == index).float().mean().item() for index, name in enumerate(KINDS)}


def _frames(video: Tensor) -> Tensor:
    """video [B, 3, F, H, W] in [-1, 1] -> [B, F, 3, H, W] in [0, 1]."""
    return (video.transpose(1, 2) + 1) / 2
