"""Trains the packaged critics on rendered scenes whose corruptions are known, patch by patch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor

from halovid.maths.grid import PatchGrid
from halovid.maths.optimizers import MuonAdamW
from halovid.models import DiffusionModel
from halovid.store.files import atomic_path
from halovid.world.corruptions import KINDS, Event, render_corrupted, sample_events
from halovid.world.critic import Critic
from halovid.world.inspector import GEOMETRY, patch_distance
from halovid.world.render import render_scene
from halovid.world.scenes import Scene, sample_scene
from halovid.world.worlds import World
from halovid.world_training.plans import Plan

FIRST_SEED = 10_000_000  # scenes that nothing else uses
_IGNORE = -100


@dataclass(frozen=True)
class Schedule:
    """How many scenes are rendered, and how long the critic trains on them."""

    num_scenes: int = 2400
    num_steps: int = 800
    batch_size: int = 16
    rate: float = 2e-3


def cells_of(world: World) -> PatchGrid:
    """The cells in which the critic of a world names corruptions: those of the latents."""
    return PatchGrid(*GEOMETRY.latent_shape(*world.clip_shape))


def render_example(plan: Plan, seed: int) -> tuple[Tensor, Tensor]:
    """A clip [3, F, H, W] in [-1, 1] and the kind of each of its cells [t, h, w]: 0 clean, 1 + index into KINDS.

    Cells with a change too small to be called a defect or too large to be called clean are marked to be ignored.
    """
    scene, threshold = sample_scene(seed, "train", plan.world), plan.world.defect_threshold
    rng = np.random.default_rng([seed, 3])
    events = sample_events(scene, rng, plan.corruption_rate)
    clean = render_scene(scene)
    distances = torch.stack(
        [_distance(_with_one_event(scene, event, seed), clean, plan.world) for event in events]
        or [_distance(clean, clean, plan.world)]
    )
    strongest = distances.max(0)
    kinds = torch.tensor([1 + KINDS.index(event.kind) for event in events] or [0])[strongest.indices]
    label = torch.where(strongest.values > threshold, kinds, _IGNORE)
    label = torch.where(strongest.values < 0.4 * threshold, 0, label)
    return render_corrupted(scene, events, np.random.default_rng([seed, 4])), label


def _with_one_event(scene: Scene, event: Event, seed: int) -> Tensor:
    """The clip with one of its events only."""
    return render_corrupted(scene, [event], np.random.default_rng([seed, 4]))


def _distance(video: Tensor, clean: Tensor, world: World) -> Tensor:
    """Distance of each cell from the clean clip, [t, h, w]."""
    first, second = ((clip.transpose(0, 1)[None] + 1) / 2 for clip in (video, clean))
    return patch_distance(first, second, cells_of(world))[0]


def train_critic(
    plan: Plan, generator: DiffusionModel, weights: Path, schedule: Schedule, seed: int = 0
) -> dict[str, float]:
    """Trains, writes the weights in half precision, and returns accuracy figures on scenes that were left out.

    Half of the clips go through the generator's autoencoder, so that its softness is not taken for a defect.
    """
    torch.manual_seed(seed)
    video, labels = _render(plan, schedule.num_scenes, generator)
    held_out = len(video) // 10
    critic = Critic()
    optimizer = MuonAdamW(critic, schedule.rate, weight_decay=0.01)
    for step in track(range(schedule.num_steps), "training the critic"):
        optimizer.set_rate(schedule.rate * min((step + 1) / 50, 1 - step / schedule.num_steps))
        rows = torch.randint(held_out, len(video), (schedule.batch_size,))
        loss = F.cross_entropy(critic(video[rows].float()), labels[rows].long(), ignore_index=_IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with atomic_path(weights) as temporary:
        save_file({name: value.half().contiguous() for name, value in critic.state_dict().items()}, temporary)
    return _accuracy(critic.eval(), video[:held_out], labels[:held_out])


def _render(plan: Plan, count: int, generator: DiffusionModel) -> tuple[Tensor, Tensor]:
    """Clips [n, 3, F, H, W] in half precision and labels [n, t, h, w]; every other clip is decoded from its latents."""
    video = torch.empty(count, 3, *plan.world.clip_shape, dtype=torch.half)
    labels = torch.empty(count, *cells_of(plan.world).shape, dtype=torch.int8)
    for i in track(range(count), "rendering scenes"):
        video[i], labels[i] = render_example(plan, FIRST_SEED + i)
    for first in track(range(0, count, 32), "autoencoding half of them"):
        rows = torch.arange(first, min(first + 32, count), 2)
        video[rows] = generator.decode_video(generator.encode_video(video[rows].float())).half()
    return video, labels


@torch.no_grad()
def _accuracy(critic: Critic, video: Tensor, labels: Tensor) -> dict[str, float]:
    """Share of clean and of defective cells told apart, and of defects whose kind is named right."""
    logits = torch.cat([critic(part.float()) for part in video.split(32)])
    labels, predicted = labels.long(), logits.argmax(1)
    predicted_kind = logits[:, 1:].argmax(1) + 1
    defective, clean = labels > 0, labels == 0
    figures = {
        "clean called clean": (predicted[clean] == 0).float().mean().item(),
        "defects called defective": (predicted[defective] > 0).float().mean().item(),
        "kind right": (predicted_kind[defective] == labels[defective]).float().mean().item(),
    }
    by_kind = {kind: (predicted_kind[labels == i + 1] == i + 1).float().mean().item() for i, kind in enumerate(KINDS)}
    return figures | {f"kind right: {kind}": value for kind, value in by_kind.items()}
