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
TOKENS_PER_RATING = 30  # of a reason, a kind and a score; an estimate


@dataclass(frozen=True)
class Question(Generic[T_co]):
    """A question that one call answers. `read` turns the text of an answer into its value or raises ValueError.

    `feedback`: messages about an answer that could not be used.
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
        said = ({"role": "assistant", "content": answer},) if answer.strip() else ()
        asked = f"This answer can't be used: {problem}. Answer the question again, with JSON of the schema alone."
        return replace(self, feedback=(*said, {"role": "user", "content": asked}))

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
        told = (*(picture.caption for picture in self.pictures), *(message["content"] for message in self.feedback))
        texts = (self.rules, self.text, json.dumps(self.schema), *told)
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)

    def text_tokens(self) -> int:
        """Estimated tokens of all text."""
        return count_text_tokens(self.text_bytes())

    def picture_tokens(self, model: ModelConfig) -> int:
        """Estimated tokens of all pictures, in the way of this model."""
        return sum(count_picture_tokens(picture.width, picture.height, model.image_patch) for picture in self.pictures)

    def answer_tokens(self) -> int:
        """Estimated tokens of the answer."""
        return self.ratings * TOKENS_PER_RATING


class ClipQuestions:
    """All questions about one clip ([3, F, H, W] in [-1, 1]) of a prompt."""

    def __init__(
        self, config: VlmConfig, grid: PatchGrid, geometry: LatentGeometry, video: Tensor, prompt: str
    ) -> None:
        self._config, self._grid, self._video, self._prompt = config, grid, video, prompt
        self.num_frames = video.shape[1]
        in_time = time_membership(video.shape[1], grid.t, geometry)
        self._frames = [torch.nonzero(row).flatten().tolist() for row in in_time]

    def about_clip(self) -> Question[ClipAnswer]:
        """The question about the clip as a whole, and about where to look closer, if the strategy has it."""
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
        """The questions about the patches of one place in time, each with the places [t, h, w], flattened, it is about.

        Patches are numbered from 1, row by row, alike at each time. No question asks about patches of two rounds, so
        that a later round leaves the questions of the earlier ones, and what is paid for, as they are.
        """
        cells = self._grid.h * self._grid.w
        asked = []
        for own in rounds:
            here = sorted(place for place in own if place // cells == time)
            for group in batches(here, self._config.patches_per_call):
                asked.append((list(group), self._about(time, [place % cells for place in group])))
        return asked

    def _about(self, time: int, cells: Sequence[int]) -> Question[PatchAnswer]:
        config, grid, frames = self._config, self._grid, self._frames[time]
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
