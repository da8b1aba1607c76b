"""Sampling clips into a clip folder: the work that generate, baseline and evaluate have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from halovid.clips.conditions import read_conditioning, read_negative
from halovid.clips.folder import write_clips
from halovid.config.run import RunConfig
from halovid.maths.seeds import clip_seed
from halovid.measuring.best_of import BestOf
from halovid.models import DiffusionModel, open_model
from halovid.records import Prompt, PromptBatch
from halovid.rewards.rewarder import open_rewarder
from halovid.store.folders import StageFolder
from halovid.store.tables import CLIPS
from halovid.store.work import Row, Skip, Worker

Draw = Callable[[PromptBatch, list[int]], Tensor]  # prompts and a seed for each -> latents of a clip of each
PromptSample = tuple[Prompt, int]  # the index-th clip of a prompt


@dataclass(frozen=True)
class SampleClips:
    """Work on samples of prompts: each becomes a clip in `folder`, which has the conditionings of the prompts already.

    seed: the clips' seeds are functions of it.  weights: those of an aligned generator; left out, the base samples.
    best_of_run: the run whose rewarder chooses the best of `evaluate.best_of` tries; left out, there is one try.
    """

    config: RunConfig
    folder: Path
    seed: int
    weights: Path | None = None
    best_of_run: Path | None = None

    def open(self) -> Worker[PromptSample]:
        """See `Work.open`."""
        config, folder = self.config, self.folder
        model = open_model(config, {"denoiser", "autoencoder"}, read_negative(folder, config))
        if self.weights is not None:
            model.load_weights(self.weights)
        draw = self._open_draw(model)

        def sample(batch: Sequence[PromptSample], skip: Skip) -> list[Row]:
            prompts = [prompt for prompt, _ in batch]
            names = [f"{prompt.prompt_id}-{index:02d}" for prompt, index in batch]
            seeds = [clip_seed(self.seed, prompt.prompt_id, index) for prompt, index in batch]
            conditioning = read_conditioning(folder, [prompt.prompt_id for prompt in prompts])
            texts = tuple(prompt.text for prompt in prompts)
            latents = draw(
                PromptBatch(texts, conditioning, (config.generator.fps,) * len(texts), model.geometry), seeds
            )
            return write_clips(
                folder, names, prompts, seeds, latents, model.decode_video(latents), config.generator.fps
            )

        return sample

    def _open_draw(self, model: DiffusionModel) -> Draw:
        """How a batch of clips is sampled: once, or as the best of several tries."""
        if self.best_of_run is not None:
            rewarder = open_rewarder(self.config, self.best_of_run)
            return BestOf(model, rewarder, self.config.evaluate.best_of, self.config.evaluate.best_by)

        def sample_once(prompts: PromptBatch, seeds: list[int]) -> Tensor:
            assert prompts.conditioning is not None, "clips are sampled from conditionings"
            return model.sample(prompts.conditioning, seeds)

        return sample_once


def sample_clips(
    stage: StageFolder, work: SampleClips, prompts: Sequence[Prompt], per_prompt: int, description: str
) -> None:
    """Samples `per_prompt` clips of every prompt into the stage's folder, with their table; continues after a kill."""
    samples = [(prompt, index) for prompt in prompts for index in range(per_prompt)]
    batch_size = work.config.generator.batch_size
    stage.write("clips.parquet", stage.map_batches(description, samples, batch_size, work, CLIPS))
