"""Samples clips while a generator is trained, and warns of reward hacking.

The reward is compared with measures that the training does not optimise.
"""

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
from halovid.maths.statistics import Interval, paired_bootstrap
from halovid.measuring.instruments import MEASURES, Instrument
from halovid.models import Sampler
from halovid.records import ClipBatch, Conditioning, Measure, PromptBatch
from halovid.rewards.rewarder import Rewarder
from halovid.store.runtime import batches
from halovid.store.video import clip_suffix, write_video

REWARD, PATCH_REWARD = "reward", "patch reward"
_TOLERATED_LOSS = 0.2  # share of a measure that should stay the same, as motion, which may be lost without a warning
_RESAMPLES = 2000  # of the bootstrap
_MIN_CLIPS = 4  # with fewer clips a bootstrap interval means nothing


@dataclass(frozen=True)
class Reading:
    """The measures of n clips, one per prompt, sampled after a training step.

    values: reward or measure id -> [n], NaN for a clip without a value, as one that the rewarder refused.
    """

    step: int
    values: dict[str, np.ndarray]

    def subset(self, mask: np.ndarray) -> Reading:
        """The reading of the clips that a mask [n] keeps."""
        return Reading(self.step, {name: values[mask] for name, values in self.values.items()})

    def means(self) -> dict[str, float]:
        """Metric name -> mean over the clips with a value, for the log; a measure without any value is left out."""
        not_nan = {name: values[~np.isnan(values)] for name, values in self.values.items()}
        return {f"monitor/{name}": float(values.mean()) for name, values in not_nan.items() if len(values)}


def monitor_instruments(config: RunConfig) -> list[str]:
    """Names of the instruments that a training is monitored with: "plain", and "critic" if it also evaluates.

    The inspector would let the truth into a training, and a judge would have to be paid at every observation.
    """
    return ["plain", *(name for name in config.evaluate.instruments if name == "critic")]


class Monitor:
    """Samples the same prompts with the same seeds at every call, writes the clips, and measures them.

    Args:
        folder: receives the clips' files.
        rewarder: the one that the pairs were made with.
        clips: a row of tables.CLIPS for each prompt, with the seed to sample it with.
        conditioning: that of their prompts, a row for each clip.
        instruments: measure the clips besides the rewarder; `monitor_instruments` names those of a recipe.
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
        """The measures of clips sampled with the current weights of `sampler`, `generator.batch_size` at a time."""
        values = [
            self._observe_batch(sampler, step, torch.tensor(rows))
            for rows in batches(range(len(self._clips)), self._config.generator.batch_size)
        ]
        return Reading(step, {name: np.concatenate([batch[name] for batch in values]) for name in values[0]})

    def _conditioning_of(self, prompt_ids: Sequence[str]) -> Conditioning:
        return self._conditioning.rows([self._row_of[prompt_id] for prompt_id in prompt_ids])

    def _observe_batch(self, sampler: Sampler, step: int, rows: Tensor) -> dict[str, np.ndarray]:
        """Samples, writes and measures the clips of these rows: measure -> values, [rows]."""
        clips = [self._clips[row] for row in rows]
        seeds = [clip["seed"] for clip in clips]
        conditioning = self._conditioning.rows(rows)
        video = sampler.decode_video(sampler.sample(conditioning, seeds))
        for clip, frames in zip(clips, video, strict=True):
            name = f"{clip['prompt_id']}-step{step:06d}{clip_suffix(frames.shape[1])}"
            write_video(self._folder / name, frames, self._config.generator.fps)
        texts, fps = tuple(clip["prompt"] for clip in clips), (self._config.generator.fps,) * len(clips)
        rewards = self._rewarder.reward(video, PromptBatch(texts, conditioning, fps, sampler.geometry))
        values = {REWARD: rewards.clip, PATCH_REWARD: rewards.patch_means}
        batch = ClipBatch(video.cpu(), clips, sampler.geometry, self._config.grid, self._conditioning_of)
        for instrument in self._instruments:
            values |= instrument.measure(batch, _ignore_skipped)
        return {name: value.cpu().double().numpy() for name, value in values.items()}


def _ignore_skipped(item: str, reason: str, again: bool = False) -> None:
    """A `Skip` that notes nothing: a clip that can't be measured has the value NaN, and the training goes on."""


def hacking_warnings(base: Reading, current: Reading, seed: int = 0) -> list[str]:
    """If the reward has risen: a sentence for each other measure that has become worse; else none.

    A change counts when its paired 95% bootstrap interval over the clips excludes zero. A measure that should stay the
    same, as motion, is worse when that interval lies below a loss of a fifth.
    """
    base, current = _with_values(base, current, REWARD)
    if len(current.values[REWARD]) < _MIN_CLIPS or _change(base, current, REWARD, seed).low <= 0:
        return []
    warnings = []
    for name, measure in MEASURES.items():
        if name not in current.values:
            continue
        known_base, known_current = _with_values(base, current, name)
        if len(known_current.values[name]) < _MIN_CLIPS:
            continue
        before, after = known_base.values[name].mean(), known_current.values[name].mean()
        if _is_worse(measure, _change(known_base, known_current, name, seed), before):
            warnings.append(
                f"step {current.step}: the reward rose from {show_number(base.values[REWARD].mean())} to "
                f"{show_number(current.values[REWARD].mean())}, but {measure.title} went from {show_number(before)} to "
                f"{show_number(after)}"
            )
    return warnings


def _with_values(base: Reading, current: Reading, name: str) -> tuple[Reading, Reading]:
    """Both readings of the clips that have a value of this measure in both."""
    known = ~np.isnan(base.values[name]) & ~np.isnan(current.values[name])
    return base.subset(known), current.subset(known)


def _change(base: Reading, current: Reading, name: str, seed: int) -> Interval:
    """By how much a measure has changed, with its 95% interval."""
    return paired_bootstrap(base.values[name], current.values[name], num_resamples=_RESAMPLES, seed=seed)


def _is_worse(measure: Measure, change: Interval, before: float) -> bool:
    """Whether the whole interval of a change lies on the bad side."""
    if measure.better == "same":
        return change.high < -_TOLERATED_LOSS * abs(before)
    return change.high < 0 if measure.better == "higher" else change.low > 0
