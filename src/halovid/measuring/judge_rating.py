"""The instrument that has clips rated by the recipe's judge."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor

from halovid.config.run import RunConfig
from halovid.judges import make_judge
from halovid.judges.base import Judge, make_requests
from halovid.records import ClipBatch, Judgement, Measure, Refusal
from halovid.store.work import Skip


class JudgeInstrument:
    """The judge's mean rating of each clip."""

    measures: ClassVar[dict[str, Measure]] = {"judge_rating": Measure("judge: rating", "Judge", "", "higher")}

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    @classmethod
    def open(cls, config: RunConfig, run_dir: Path) -> JudgeInstrument:
        """The instrument with the recipe's judge; raises what `judges.make_judge` raises."""
        return cls(make_judge(config.judge, config.grid, config.seed))

    def measure(self, clips: ClipBatch, skip: Skip) -> dict[str, Tensor]:
        """The mean rating over all aspects, [B] on the scale 1..5; NaN for a clip that the judge refuses.

        An aspect that is rated by patch counts with the mean of its patches. Aspects of the whole clip count too, since
        an object that is missing shows in no patch. `skip` is called for refused clips.
        """
        answers = self._judge.judge(make_requests(clips.rows, clips.video), clips.geometry)
        for row, answer in zip(clips.rows, answers, strict=True):
            if isinstance(answer, Refusal):
                skip(row["clip_id"], f"not rated by the judge: {answer.reason}", answer.again)
        return {"judge_rating": torch.tensor([_mean_rating(answer) for answer in answers])}


def _mean_rating(answer: Judgement | Refusal) -> float:
    if isinstance(answer, Refusal):
        return math.nan
    by_patch = {aspect: patches.mean().item() for aspect, patches in answer.patches.items()}
    return fmean((answer.clip | by_patch).values())
