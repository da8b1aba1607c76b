"""Sampling clips into a clip folder, which the stages generate, baseline and evaluate have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from halovid.clips.conditions import read_conditioning, read_negative
from halovid.clips.folder import write_clips
from halovid.config.run import RunConfig
from halovid.maths.seeds import clip_seed
from halovid.models import open_model
from halovid.records import Prompt, PromptBatch
from halovid.rewards.rewarder import open_rewarder
from halovid.search.draw import draw_once, draw_with_search
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
    """

    config: RunConfig
    folder: Path
    seed: int
    weights: Path | None = None
    search_run: Path | None = None

    def open(self) -> Worker[PromptSample]:
        """See `Work.open`."""
        config, folder = self.config, self.folder
        model = open_model(config, {"denoiser", "autoencoder"}, read_negative(folder, config))
        if self.weights is not None:
            model.load_weights(self.weights)
        draw = draw_once(model)
        if self.search_run is not None:
            draw = draw_with_search(model, open_rewarder(config, self.search_run), config.evaluate)

        def sample(batch: Sequence[PromptSample], skip: Skip) -> list[Row]:
            prompts = [prompt for prompt, _ in batch]
            clip_ids = [f"{prompt.prompt_id}-{index:02d}" for prompt, index in batch]
            seeds = [clip_seed(self.seed, prompt.prompt_id, index) for prompt, index in batch]
            conditioning = read_conditioning(folder, [prompt.prompt_id for prompt in prompts])
            texts = tuple(prompt.text for prompt in prompts)
            fps = config.generator.fps
            latents = draw(PromptBatch(texts, conditioning, (fps,) * len(texts), model.geometry), seeds)
            return write_clips(folder, clip_ids, prompts, seeds, latents, model.decode_video(latents), fps)

        return sample


def sample_clips(
    stage: StageFolder, work: SampleClips, prompts: Sequence[Prompt], per_prompt: int, description: str
) -> None:
    """Samples `per_prompt` clips of every prompt into the stage's folder and writes clips.parquet.

    Clips that were sampled before an interruption are kept.
    """
    samples = [(prompt, index) for prompt in prompts for index in range(per_prompt)]
    batch_size = work.config.generator.batch_size
    stage.write("clips.parquet", stage.map_batches(description, samples, batch_size, work, CLIPS))
