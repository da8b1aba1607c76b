"""Sampling clips into a clip folder, which the stages generate, baseline and evaluate have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halovid.clips.conditions import read_conditioning, read_negative
from halovid.clips.folder import write_clips
from halovid.config.run import RunConfig
from halovid.maths.seeds import clip_seed
from halovid.models import open_model
from halovid.records import Prompt, PromptBatch
from halovid.rewards.rewarder import open_rewarder
from halovid.search.draw import Draw, draw_once, draw_with_search
from halovid.store.folders import StageFolder
from halovid.store.tables import CLIPS
from halovid.store.work import Row, Skip, Worker

PromptSample = tuple[Prompt, int]  # a prompt, and which of its clips is sampled, counted from 0


@dataclass(frozen=True)
class SampleClips:
    """Work on samples of prompts: each is sampled and written to `folder`, which must hold the prompts' conditionings.

    seed: the seed of each clip is a function of it, of the prompt and of the sample's number.
    weights: the folder of an aligned generator's weights; None samples with the base.
    search_run: the run whose rewarder guides the search of section `evaluate`; None samples each clip once.
    guidance_scales: strengths of guidance that the samples of a prompt have in turn; None: the generator's.
    """

    config: RunConfig
    folder: Path
    seed: int
    weights: Path | None = None
    search_run: Path | None = None
    guidance_scales: tuple[float, ...] | None = None

    def turn(self, index: int) -> int:
        """Which of the guidance scales the index-th sample of a prompt has."""
        return index % len(self.guidance_scales or (None,))

    def open(self) -> Worker[PromptSample]:
        """See `Work.open`."""
        config, folder = self.config, self.folder
        model = open_model(config, {"denoiser", "autoencoder"}, read_negative(folder, config))
        if self.weights is not None:
            model.load_weights(self.weights)
        scales = self.guidance_scales or (config.generator.guidance_scale,)
        draws = [draw_once(model.with_guidance(scale)) for scale in scales]
        if self.search_run is not None:
            rewarder, steps = open_rewarder(config, self.search_run), config.generator.num_inference_steps
            draws = [draw_with_search(model, rewarder, config.evaluate, steps)]

        def sample(batch: Sequence[PromptSample], skip: Skip) -> list[Row]:
            parts: dict[int, list[PromptSample]] = {}
            for prompt, index in batch:
                parts.setdefault(self.turn(index), []).append((prompt, index))
            return [row for turn, part in parts.items() for row in sample_alike(part, draws[turn])]

        def sample_alike(batch: Sequence[PromptSample], draw: Draw) -> list[Row]:
            prompts = [prompt for prompt, _ in batch]
            clip_ids = [clip_id(prompt, index) for prompt, index in batch]
            seeds = [clip_seed(self.seed, prompt.prompt_id, index) for prompt, index in batch]
            conditioning = read_conditioning(folder, [prompt.prompt_id for prompt in prompts])
            fps = config.generator.fps
            latents = draw(PromptBatch.of_prompts(prompts, conditioning, fps, model.geometry), seeds)
            return write_clips(folder, clip_ids, prompts, seeds, latents, model.decode_video(latents), fps)

        return sample


def sample_clips(
    stage: StageFolder, work: SampleClips, prompts: Sequence[Prompt], per_prompt: int, description: str
) -> None:
    """Samples `per_prompt` clips of every prompt into the stage's folder and writes clips.parquet.

    Clips that were sampled before an interruption are kept.
    """
    samples = [(prompt, index) for prompt in prompts for index in range(per_prompt)]
    alike_together = sorted(samples, key=lambda sample: work.turn(sample[1]))
    batch_size = work.config.generator.batch_size
    clips = stage.map_batches(description, alike_together, batch_size, work, CLIPS)
    place = {clip_id(prompt, index): number for number, (prompt, index) in enumerate(samples)}
    places = np.array([place[name] for name in clips["clip_id"].to_pylist()])
    stage.write("clips.parquet", clips.take(np.argsort(places)))


def clip_id(prompt: Prompt, index: int) -> str:
    """The name of the index-th sample of a prompt."""
    return f"{prompt.prompt_id}-{index:02d}"
