"""Questions about a clip: what a model is shown, told and asked, and what its answer may look like."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from halovid.config.endpoints import ModelConfig
from halovid.config.vlm import VlmConfig
from halovid.judges.vlm.rubric import render_question, render_rubric
from halovid.judges.vlm.schema import ClipAnswer, ClipForm, PatchAnswer, PatchForm, strict_schema
from halovid.judges.vlm.show import Picture, numbered_frames, spread_evenly, tubes, whole_frames
from halovid.maths.grid import LatentGeometry, PatchGrid, time_membership
from halovid.records import Rounds
from halovid.remote.tokens import count_picture_tokens, count_text_tokens
from halovid.store.runtime import batches

T_co = TypeVar("T_co", covariant=True)
TOKENS_PER_RATING = 30  # an estimate for the reason, kind and score that make a rating


@dataclass(frozen=True)
class Question(Generic[T_co]):
    """A question that one call answers.

    rules: the system message.  text, pictures: the user message.  schema: JSON schema of the answer.
    ratings: about how many ratings the answer holds.
    read: turns the text of an answer into its value, or raises ValueError.
    feedback: earlier answers that could not be used, each followed by what is wrong about it.
    """

    rules: str
    text: str
    pictures: tuple[Picture, ...]
    schema: dict[str, Any]
    ratings: int
    read: Callable[[str], T_co]
    feedback: tuple[dict[str, str], ...] = ()

    def sent_back(self, answer: str, problem: str) -> Question[T_co]:
        """The question once more, after an answer that could not be used, and what is wrong about it."""
        answered = ({"role": "assistant", "content": answer},) if answer.strip() else ()
        request = f"This answer can't be used: {problem}. Answer the question again, with JSON of the schema alone."
        return replace(self, feedback=(*answered, {"role": "user", "content": request}))

    def messages(self) -> list[dict[str, Any]]:
        """The conversation that asks it: the rules, then text and pictures with their captions, and the feedback."""
        content: list[dict[str, Any]] = [{"type": "text", "text": self.text}]
        for picture in self.pictures:
            content.append({"type": "text", "text": picture.caption})
            content.append({"type": "image_url", "image_url": {"url": picture.url, "detail": "high"}})
        return [{"role": "system", "content": self.rules}, {"role": "user", "content": content}, *self.feedback]

    def form(self) -> dict[str, Any]:
        """The strict schema of the answer, as a request names it."""
        schema = {"name": "ratings", "strict": True, "schema": self.schema}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}

    def text_bytes(self) -> int:
        """UTF-8 bytes of all text, the schema included."""
        captions = (picture.caption for picture in self.pictures)
        feedback = (message["content"] for message in self.feedback)
        texts = (self.rules, self.text, json.dumps(self.schema), *captions, *feedback)
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)

    def text_tokens(self) -> int:
        """Estimated tokens of all text."""
        return count_text_tokens(self.text_bytes())

    def picture_tokens(self, model: ModelConfig) -> int:
        """Estimated tokens of all pictures, as this model counts them."""
        return sum(count_picture_tokens(picture.width, picture.height, model.image_patch) for picture in self.pictures)

    def answer_tokens(self) -> int:
        """Estimated tokens of the answer."""
        return self.ratings * TOKENS_PER_RATING


class ClipQuestions:
    """All questions about one clip, [3, F, H, W] in [-1, 1], and its prompt."""

    def __init__(
        self, config: VlmConfig, grid: PatchGrid, geometry: LatentGeometry, video: Tensor, prompt: str
    ) -> None:
        self._config, self._grid, self._video, self._prompt = config, grid, video, prompt
        self.num_frames = video.shape[1]
        frame_shares = time_membership(video.shape[1], grid.t, geometry)  # [t, F]
        self._frames_of_time = [torch.nonzero(shares).flatten().tolist() for shares in frame_shares]

    def about_clip(self) -> Question[ClipAnswer]:
        """The question about the whole clip; some strategies also ask for suspicious times, or for defects in boxes."""
        config, num_frames = self._config, self._video.shape[1]
        shown = spread_evenly(range(num_frames), config.clip_frames)
        form = ClipForm(config.aspects, num_frames, config.strategy, config.patch_aspects)
        text = render_question(
            "clip",
            self._prompt,
            shown=shown,
            num_frames=num_frames,
            strategy=config.strategy,
            patch_aspects=config.patch_aspects,
        )
        aspects = tuple(dict.fromkeys((*config.aspects, *config.patch_aspects)))
        pictures = tuple(whole_frames(self._video, shown, config.frame_side))
        ratings = len(config.aspects) if config.strategy == "patches" else len(config.aspects) + 4
        return Question(render_rubric(aspects), text, pictures, strict_schema(form.model), ratings, form.read)

    def about_patches(self, time: int, rounds: Rounds) -> list[tuple[list[int], Question[PatchAnswer]]]:
        """The questions about the patches at one of the grid's t times, each with the patches that it asks about.

        A patch is its index in [t, h, w], flattened. The model sees numbers from 1, row by row, the same at each time.
        No question asks about patches of two rounds: so a later round leaves earlier questions, and with them the
        answers that are paid for, as they are.
        """
        patches_per_time = self._grid.h * self._grid.w
        questions = []
        for round_patches in rounds:
            patches_now = sorted(patch for patch in round_patches if patch // patches_per_time == time)
            for group in batches(patches_now, self._config.patches_per_call):
                cells = [patch % patches_per_time for patch in group]
                questions.append((list(group), self._about(time, cells)))
        return questions

    def _about(self, time: int, cells: Sequence[int]) -> Question[PatchAnswer]:
        """The question about the patches at one time in these cells of the frame, counted row by row from 0."""
        config, grid, frames = self._config, self._grid, self._frames_of_time[time]
        numbers = {cell + 1: divmod(cell, grid.w) for cell in cells}
        shown = spread_evenly(frames, config.patch_frames)
        side = config.frame_side
        if config.show == "grid":
            pictures = numbered_frames(self._video, shown, side, grid, numbers)
        else:
            middle = spread_evenly(frames, 1)
            pictures = numbered_frames(self._video, middle, side, grid, numbers)
            pictures += tubes(self._video, shown, grid, numbers)
        text = render_question(
            "patches",
            self._prompt,
            first=frames[0],
            last=frames[-1],
            num_frames=self._video.shape[1],
            show=config.show,
            rows=grid.h,
            columns=grid.w,
            numbers=list(numbers),
        )
        form = PatchForm(config.patch_aspects, list(numbers))
        ratings = len(numbers) * len(config.patch_aspects)
        rules = render_rubric(config.patch_aspects)
        return Question(rules, text, tuple(pictures), strict_schema(form.model), ratings, form.read)
