"""Samples along the way, and an eye on reward hacking: the reward against measures that training never sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from halovid.clips.folder import Row
from halovid.config.run import RunConfig
from halovid.maths.numbers import show_number
from halovid.maths.statistics import paired_bootstrap
from halovid.measuring.instruments import MEASURES, Instrument
from halovid.models import Sampler
from halovid.records import ClipBatch, Conditioning, Measure, PromptBatch
from halovid.rewards.rewarder import Rewarder
from halovid.store.runtime import batches
from halovid.store.video import write_video

REWARD, PATCH_REWARD = "reward", "patch reward"
_SHRINKAGE = 0.2  # share of the motion that may be lost before it counts as parting
_RESAMPLES = 2000
_FEWEST = 4  # clips below which an interval means nothing


@dataclass(frozen=True)
class Reading:
    """What is measured of one clip per prompt at a step: measure -> values, [n], NaN where the rewarder refused."""

    step: int
    values: dict[str, np.ndarray]

    def of(self, clips: np.ndarray) -> Reading:
        """The reading of some of the clips, a mask [n]."""
        return Reading(self.step, {name: value[clips] for name, value in self.values.items()})

    def means(self) -> dict[str, float]:
        """Metric name -> mean over the clips with a value, for the log; what no clip has is left out."""
        known = {name: value[~np.isnan(value)] for name, value in self.values.items()}
        return {f"monitor/{name}": float(value.mean()) for name, value in known.items() if len(value)}


def watching_instruments(config: RunConfig) -> list[str]:
    """The instruments that watch a training of this recipe: formulas on pixels, and the critic when it also evaluates.

    The truth has no place in a training, and a judge would be asked, and paid, at every look.
    """
    return ["plain", *(name for name in config.evaluate.instruments if name == "critic")]


class Monitor:
    """Samples the same prompts with the same seeds at every call, keeps the clips, and measures them.

    It holds the rewarder that the pairs come from against instruments that the training does not follow.

    Args:
        folder: where the clips go.
        clips: a row of tables.CLIPS for each prompt, with the seed to sample it with.
        conditioning: what their prompts make the model do, a row each.
        instruments: what measures the clips besides the reward; `watching_instruments` names those of a recipe.
    """

    def __init__(
        self,
        folder: Path,
        rewarder: Rewarder,
        clips: Sequence[Row],
        conditioning: Conditioning,
        config: RunConfig,
        instruments: Sequence[Instrument],
    ) -> None:
        self._folder, self._rewarder, self._config = folder, rewarder, config
        self._clips, self._conditioning = clips, conditioning
        self._row_of = {clip["prompt_id"]: row for row, clip in enumerate(clips)}
        self._instruments = instruments

    def observe(self, sampler: Sampler, step: int) -> Reading:
        """Samples and measures with the weights that `sampler` has now, generator.batch_size clips at once."""
        readings = [
            self._observe_some(sampler, step, torch.tensor(rows))
            for rows in batches(range(len(self._clips)), self._config.generator.batch_size)
        ]
        return Reading(step, {name: np.concatenate([some[name] for some in readings]) for name in readings[0]})

    def _conditioning_of(self, prompt_ids: Sequence[str]) -> Conditioning:
        return self._conditioning.rows([self._row_of[prompt_id] for prompt_id in prompt_ids])

    def _observe_some(self, sampler: Sampler, step: int, rows: Tensor) -> dict[str, np.ndarray]:
        """The same of the clips of some rows: measure -> values, [rows]."""
        clips = [self._clips[row] for row in rows]
        seeds = [clip["seed"] for clip in clips]
        video = sampler.decode_video(sampler.sample(self._conditioning.rows(rows), seeds))
        for clip, frames in zip(clips, video, strict=True):
            name = f"{clip['prompt_id']}-step{step:06d}.mp4"
            write_video(self._folder / name, frames, self._config.generator.fps)
        texts, fps = tuple(clip["prompt"] for clip in clips), (self._config.generator.fps,) * len(clips)
        rewards = self._rewarder.reward(video, PromptBatch(texts, self._conditioning.rows(rows), fps, sampler.geometry))
        values = {REWARD: rewards.clip, PATCH_REWARD: rewards.patch_means}
        batch = ClipBatch(video.cpu(), clips, sampler.geometry, self._config.grid, self._conditioning_of)
        for instrument in self._instruments:
            values |= instrument.measure(batch, _keep_silent)
        return {name: value.cpu().double().numpy() for name, value in values.items()}


def parting(base: Reading, now: Reading, seed: int = 0) -> list[str]:
    """What speaks against a reward that has risen: a sentence for each independent measure that has got worse.

    A change counts when the paired 95% interval over the clips is clear of zero; of motion, when a fifth of it is lost.
    """
    rewarded = ~np.isnan(base.values[REWARD]) & ~np.isnan(now.values[REWARD])
    base, now = base.of(rewarded), now.of(rewarded)
    if rewarded.sum() < _FEWEST or _change(base, now, REWARD, seed)[0] <= 0:
        return []
    sentences = []
    for name, measure in MEASURES.items():
        if name not in now.values:
            continue
        low, high = _change(base, now, name, seed)
        before, after = base.values[name].mean(), now.values[name].mean()
        if _is_worse(measure, low, high, before):
            sentences.append(
                f"step {now.step}: the reward rose from {show_number(base.values[REWARD].mean())} to "
                f"{show_number(now.values[REWARD].mean())}, but {measure.title} went from {show_number(before)} to "
                f"{show_number(after)}"
            )
    return sentences


def _change(base: Reading, now: Reading, name: str, seed: int) -> tuple[float, float]:
    """The interval of a measure's change."""
    change = paired_bootstrap(base.values[name], now.values[name], num_resamples=_RESAMPLES, seed=seed)
    return change.low, change.high


def _keep_silent(item: str, reason: str, again: bool = False) -> None:
    """Watching goes on without what can't be measured: its values are NaN."""


def _is_worse(measure: Measure, low: float, high: float, before: float) -> bool:
    """Whether a change's whole interval lies on the bad side."""
    if measure.better == "same":
        return high < -_SHRINKAGE * abs(before)
    return high < 0 if measure.better == "higher" else low > 0
