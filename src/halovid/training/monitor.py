"""Samples along the way, and an eye on reward hacking: the reward against measures that training never sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from halovid.clips.folder import Row
from halovid.config.run import RunConfig
from halovid.maths.statistics import paired_bootstrap
from halovid.measuring.measures import MEASURES, Instrument, Measure, measure_critic, measure_plain
from halovid.models import Sampler
from halovid.records import PromptBatch
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


class Monitor:
    """Samples the same prompts with the same seeds at every call, keeps the clips, and measures them.

    It uses the rewarder that the pairs come from, the model-free measures and, in the embedded world, the critic;
    the inspector's truth has no place in a training.

    Args:
        folder: where the clips go.
        clips: a row of tables.CLIPS for each prompt, with the seed to sample it with.
        prompt_embeds: [n, L, D], their prompts' text conditions, on the device of the model that is trained.
    """

    def __init__(
        self,
        folder: Path,
        rewarder: Rewarder,
        clips: Sequence[Row],
        prompt_embeds: Tensor,
        config: RunConfig,
    ) -> None:
        self._folder, self._rewarder, self._config = folder, rewarder, config
        self._clips, self._seeds = clips, [row["seed"] for row in clips]
        texts, fps = tuple(row["prompt"] for row in clips), (config.generator.fps,) * len(clips)
        self._prompts = PromptBatch(texts, prompt_embeds, fps)
        self._instruments: list[Instrument] = [measure_plain]
        if config.evaluate.critic == "world":
            self._instruments.append(measure_critic)

    def observe(self, sampler: Sampler, step: int) -> Reading:
        """Samples and measures with the weights that `sampler` has now, `generator.batch_size` clips at a time."""
        parts = [
            self._observe(sampler, step, rows)
            for rows in batches(range(len(self._clips)), self._config.generator.batch_size)
        ]
        return Reading(step, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def _observe(self, sampler: Sampler, step: int, rows: Sequence[int]) -> dict[str, np.ndarray]:
        """The values of some of the clips."""
        clips, prompts = [self._clips[row] for row in rows], self._prompts.rows(rows)
        assert prompts.conditioning is not None
        video = sampler.decode_video(sampler.sample(prompts.conditioning, [self._seeds[row] for row in rows]))
        for clip, pixels in zip(clips, video, strict=True):
            write_video(self._folder / f"{clip['prompt_id']}-step{step:06d}.mp4", pixels, self._config.generator.fps)
        rewards = self._rewarder.reward(video, prompts)
        values: dict[str, Tensor] = {REWARD: rewards.clip, PATCH_REWARD: rewards.patch_means}
        for instrument in self._instruments:
            values |= instrument(video.cpu(), clips, self._config.grid)
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
                f"step {now.step}: the reward rose from {base.values[REWARD].mean():.3g} to "
                f"{now.values[REWARD].mean():.3g}, but {name} went from {before:.3g} to {after:.3g}"
            )
    return sentences


def _change(base: Reading, now: Reading, name: str, seed: int) -> tuple[float, float]:
    """The interval of a measure's change."""
    interval = paired_bootstrap(base.values[name], now.values[name], num_resamples=_RESAMPLES, seed=seed)
    return interval.low, interval.high


def _is_worse(measure: Measure, low: float, high: float, before: float) -> bool:
    """Whether a change's whole interval lies on the bad side."""
    if measure.better == "same":
        return high < -_SHRINKAGE * abs(before)
    return high < 0 if measure.better == "higher" else low > 0
