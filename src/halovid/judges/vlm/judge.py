"""Vision-language models as a judge: alone or as a panel, patch by patch, from coarse to fine, or by boxes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from statistics import fmean
from typing import Any, TypeVar

import torch
from torch import Tensor

from halovid.config.endpoints import ModelConfig
from halovid.config.run import JudgeConfig
from halovid.config.vlm import VlmConfig
from halovid.judges.base import asked_rounds
from halovid.judges.vlm.boxes import covered_patches, touched_times
from halovid.judges.vlm.questions import ClipQuestions
from halovid.judges.vlm.rubric import rubric_version
from halovid.judges.vlm.schema import FAULTLESS, ClipAnswer, Defect, Rating
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.records import Judgement, Refusal, Request, Rounds, Vote
from halovid.remote.client import Asker, Asking
from halovid.remote.failures import Unanswered
from halovid.store.errors import InputError
from halovid.store.files import hash_value

T = TypeVar("T")
SECTION = "judge.vlm"  # of the recipe, for messages
PatchRatings = dict[tuple[int, str], Rating]  # (patch: its index in [t, h, w], flattened; aspect) -> rating
# the settings that decide what is asked and so what is answered; others (prices, limits, waits) change no label
_ASKED = (
    *("aspects", "patch_aspects", "strategy", "show", "clip_frames", "patch_frames", "frame_side"),
    *("patches_per_call", "temperature", "max_output_tokens"),
)


class VlmJudge:
    """Rates clips by what models answer: each answer is a vote, the ratings are the means of the votes."""

    def __init__(self, config: VlmConfig, grid: PatchGrid) -> None:
        self.name = _name(config)
        self.asker = Asker(how_asked(config))
        self._config, self._grid = config, grid
        self._voters = [(model, vote) for model in config.models for vote in range(model.votes)]

    def judge(self, requests: Sequence[Request], geometry: LatentGeometry) -> list[Judgement | Refusal]:
        """The ratings of each clip; a clip with an unanswered question gives a refusal, to be tried again.

        Raises:
            InputError: no question can be answered until a setting is mended, as with a wrong key.
        """
        return self.asker.run(self._judge(requests, geometry))

    async def _judge(self, requests: Sequence[Request], geometry: LatentGeometry) -> list[Judgement | Refusal]:
        """One answer per request, all clips at the same time."""
        try:
            answers = await _all(self._judge_clip(request, geometry) for request in requests)
        finally:
            await self.asker.close()
        if self.asker.stopped and self.asker.stopped.fatal:
            raise InputError(str(self.asker.stopped))
        return answers

    async def _judge_clip(self, request: Request, geometry: LatentGeometry) -> Judgement | Refusal:
        """The mean of all voters' ratings of a clip, and of the patches asked about."""
        questions = ClipQuestions(self._config, self._grid, geometry, request.video, request.prompt)
        rounds = asked_rounds(request, self._grid)
        num_frames = questions.num_frames
        try:
            about_clip = await asyncio.to_thread(questions.about_clip)
            clip_answers = await _all(self.asker.ask(about_clip, *voter) for voter in self._voters)
            if self._config.strategy == "boxes":
                patches = [self._from_boxes(answer.defects, num_frames, geometry) for answer in clip_answers]
            else:
                times = self._times(clip_answers, num_frames, geometry)
                patches = await _all(self._look_closer(questions, times, rounds, *voter) for voter in self._voters)
        except Unanswered as error:
            return Refusal(str(error), again=True)
        return self._judgement(clip_answers, patches)

    def _times(self, clip_answers: Sequence[ClipAnswer], num_frames: int, geometry: LatentGeometry) -> list[int]:
        """The times, 0..t - 1, whose patches all voters are asked about."""
        if self._config.strategy == "patches":
            return list(range(self._grid.t))
        windows = [(window.first_frame, window.last_frame) for answer in clip_answers for window in answer.windows]
        return touched_times(windows, self._grid, num_frames, geometry)

    async def _look_closer(
        self, questions: ClipQuestions, times: list[int], rounds: Rounds, model: ModelConfig, vote: int
    ) -> PatchRatings:
        """A voter's ratings of the patches that are asked about at these times."""
        asked = [pair for time in times for pair in await asyncio.to_thread(questions.about_patches, time, rounds)]
        answers = await _all(self.asker.ask(question, model, vote) for _, question in asked)
        return {
            (patch, aspect): rating
            for (patches, _), answer in zip(asked, answers, strict=True)
            for patch, ratings in zip(patches, answer.values(), strict=True)
            for aspect, rating in ratings.items()
        }

    def _from_boxes(self, defects: Iterable[Defect], num_frames: int, geometry: LatentGeometry) -> PatchRatings:
        """The ratings that a voter's boxes give to the patches they cover; where several cover one, the worst."""
        ratings: PatchRatings = {}
        for defect in defects:
            covered = covered_patches(defect.box, self._grid, num_frames, geometry).flatten()
            for patch in torch.nonzero(covered).flatten().tolist():
                worst_so_far = ratings.get((patch, defect.aspect), FAULTLESS)
                ratings[patch, defect.aspect] = min(worst_so_far, defect.rating, key=lambda rating: rating.score)
        return ratings

    def _judgement(self, clip_answers: Sequence[ClipAnswer], patches_of_voters: Sequence[PatchRatings]) -> Judgement:
        """The means of the votes; patches that no voter spoke of are faultless."""
        config = self._config
        votes: list[Vote] = []
        faultless = torch.full((self._grid.num_patches,), float(FAULTLESS.score))
        clip_scores: dict[str, float] = {}
        for aspect in config.aspects:
            ratings = [answer.ratings[aspect] for answer in clip_answers]
            clip_scores[aspect] = fmean(rating.score for rating in ratings)
            votes += self._votes(aspect, None, ratings)
        patch_scores: dict[str, Tensor] = {aspect: faultless.clone() for aspect in config.patch_aspects}
        for patch, name in sorted(set().union(*patches_of_voters)):
            ratings = [patches.get((patch, name), FAULTLESS) for patches in patches_of_voters]
            patch_scores[name][patch] = fmean(rating.score for rating in ratings)
            votes += self._votes(name, patch, ratings)
        on_grid = {aspect: scores.view(self._grid.shape) for aspect, scores in patch_scores.items()}
        return Judgement(clip_scores, on_grid, tuple(votes))

    def _votes(self, aspect: str, patch: int | None, ratings: Iterable[Rating]) -> list[Vote]:
        """One vote for each voter's rating of a patch, or of the whole clip (None)."""
        return [
            Vote(aspect, patch, f"{model.model}#{vote}", float(rating.score), rating.kind, rating.reason)
            for (model, vote), rating in zip(self._voters, ratings, strict=True)
        ]


def how_asked(config: VlmConfig) -> Asking:
    """Which models the questions of a configuration go to, and with which options and limits."""
    options: dict[str, Any] = {"max_completion_tokens": config.max_output_tokens}
    if config.temperature is not None:
        options["temperature"] = config.temperature
    return Asking(SECTION, config, config.models, options, config.max_output_tokens, config.concurrency, config.budget)


def _name(config: VlmConfig) -> str:
    """Judge, version and settings: models and strategy in words, rubric and all settings that matter by their hash."""
    asked = config.model_dump(mode="json", include=set(_ASKED))
    asked["models"] = [[model.base_url, model.model, model.votes] for model in config.models]
    models = "+".join(f"{model.model}x{model.votes}" if model.votes > 1 else model.model for model in config.models)
    return (
        f"openai-1({models}, {config.strategy}, show={config.show}, "
        f"rubric={rubric_version()}, settings={hash_value(asked)[:12]})"
    )


async def _all(work: Iterable[Awaitable[T]]) -> list[T]:
    """All results. When some fail, the others, which may be paid for, are finished; then one error is raised."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def open_vlm(config: JudgeConfig, grid: PatchGrid, seed: int) -> VlmJudge:
    """The judge that `judge.vlm` describes; `VlmJudge` tells what it raises."""
    return VlmJudge(config.vlm, grid)
