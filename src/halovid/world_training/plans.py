"""How the generator of each embedded world is trained: the numbers that differ between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from halovid.config.run import GeneratorConfig
from halovid.world import PANORAMA_PIPELINE, packaged_pipeline
from halovid.world.worlds import PANORAMA, PLAIN, World


@dataclass(frozen=True)
class Phase:
    """A stretch of the autoencoder's training: up to step `until`, `batch_size` clips of `num_frames` frames.

    The learning rate falls from `rate` to `final_rate` along a cosine.
    crop: side in pixels of the square that is cut out of each clip; None: all of it.
    """

    until: int
    num_frames: int
    batch_size: int
    rate: float
    final_rate: float
    crop: int | None = None


@dataclass(frozen=True)
class Schedule:
    """How long and how fast the transformer trains: a warm-up, then a rate that falls to zero in a straight line."""

    num_steps: int = 28_000
    batch_size: int = 16
    rate: float = 2e-3
    warmup: int = 300
    drop_prompt: float = 0.1  # share of samples with the empty prompt, for classifier-free guidance
    ema: float = 0.998
    checkpoint_every: int = 250

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        return self.rate * min(step / self.warmup, 1 - step / self.num_steps)


@dataclass(frozen=True)
class Plan:
    """How the generator of a world is trained.

    model: its name in recipes, as `generator.model`.  pipeline: the folder of it in the package.
    record: the folder where the logs and figures of its trainings are kept, from the project's.
    start: the pipeline folder whose weights the trainings start from; None: from nothing.
    corruption_rate: share of the tries to corrupt a sprite that do.
    frame_weight: how much an equal error of each latent frame shows in the decoded pixels; mean 1.
    """

    world: World
    model: str
    pipeline: Path
    record: Path
    start: Path | None
    corruption_rate: float
    vae_phases: tuple[Phase, ...]
    frame_weight: tuple[float, ...]
    schedule: Schedule

    def generator_config(self, model: str | None = None) -> GeneratorConfig:
        """How clips of this world are sampled by a model, by default the packaged one."""
        frames, height, width = self.world.clip_shape
        return GeneratorConfig(model=model or self.model, num_frames=frames, height=height, width=width)


PLANS = {  # by the name of the world
    plan.world.name: plan
    for plan in (
        Plan(
            world=PLAIN,
            model="world",
            pipeline=packaged_pipeline(),
            record=Path("recipes/world"),
            start=None,
            corruption_rate=0.5,
            vae_phases=(
                Phase(700, 1, 16, rate=3e-3, final_rate=2e-3),
                Phase(1200, 5, 8, rate=2e-3, final_rate=2e-3),
                Phase(3200, 13, 4, rate=2e-3, final_rate=2e-5),
            ),
            frame_weight=(1.4, 1.0, 0.8, 0.8),
            schedule=Schedule(),
        ),
        Plan(
            world=PANORAMA,
            model="panorama",
            pipeline=PANORAMA_PIPELINE,
            record=Path("recipes/world-panorama"),
            start=packaged_pipeline(),
            corruption_rate=0.7,
            vae_phases=(Phase(450, 9, 4, rate=1e-3, final_rate=2e-5, crop=64),),
            frame_weight=(1.5, 1.1, 0.8, 0.8, 0.8),
            schedule=Schedule(num_steps=6_000, rate=1e-3),
        ),
    )
}
