"""What all released reward models have in common: their interface, the record of a score, reading their files."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halovid.rewards.readers.pixels import to_bytes
from halovid.store.errors import InputError
from halovid.store.files import hash_value
from halovid.store.troubles import raise_shortage

QUESTION_FILE = "prompt.txt"


@dataclass(frozen=True)
class Head:
    """The linear head of a released model, for a training that starts from it.

    weight: [n, D].  bias: [n].  aspects: [n], the recipe's aspect that each row rates.
    shift, scale: [n]; `shift + scale * score` is on the judges' scale of 1 to 5.
    """

    weight: Tensor
    bias: Tensor
    aspects: tuple[str, ...]
    shift: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Start:
    """A language model that a training starts from.

    question: the question that it was trained with, with `{prompt}` and `{video}` in it; None if there is none.
    head: None for a plain language model.  sequential: see `QwenReader`.
    """

    model: Any
    tokenizer: Any
    question: str | None = None
    head: Head | None = None
    sequential: bool = False


@dataclass(frozen=True)
class ReleasedScore:
    """The scores of one clip, and what the model was shown of it: a score means nothing without that.

    scores: by the release's own names.  overall: its authors' summary of them, as their mean or sum.
    frames: indices of the frames that it saw.  fps: the clip's frame rate.
    policy: how frames were chosen and resized, and the question.  model: its name or folder, as the recipe has it.
    """

    scores: dict[str, float]
    overall: float
    frames: tuple[int, ...]
    fps: float
    policy: str
    model: str


class UnscoredError(ValueError):
    """A reward model gave no score for a clip; the message says why. Other clips can still be scored.

    again: another attempt may succeed, as after a server's outage.
    """

    def __init__(self, reason: str, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


class ReleasedReward(ABC):
    """A released video reward model, loaded here or asked over HTTP.

    names: of its scores, in the order of its outputs.
    model_name, policy: `model` and `policy` of its `ReleasedScore`s.
    """

    names: tuple[str, ...]
    model_name: str
    policy: str

    @abstractmethod
    def choose_frames(self, count: int, fps: float) -> list[int]:
        """The indices of the frames that it sees, of a clip of `count` frames at `fps` frames a second."""

    @abstractmethod
    def rate(self, frames: Tensor, prompt: str) -> Tensor:
        """Its scores, [len(names)], of a clip's chosen frames [n, 3, H, W] of bytes."""

    @abstractmethod
    def overall(self, scores: Tensor) -> float:
        """The authors' summary of the scores, as their mean or sum."""

    @torch.no_grad()
    def score(self, video: Tensor, fps: float, prompt: str) -> ReleasedScore:
        """The scores of a clip [3, F, H, W] in [-1, 1].

        Raises:
            InputError: the frame rate is not positive.
        """
        if not fps > 0:
            raise InputError(f"fps is {fps}; released reward models need the clip's true frame rate, above 0")
        chosen = self.choose_frames(video.shape[1], fps)
        scores = self.rate(to_bytes(video[:, chosen]).transpose(0, 1), prompt).float().cpu()
        by_name = dict(zip(self.names, scores.tolist(), strict=True))
        return ReleasedScore(by_name, self.overall(scores), tuple(chosen), fps, self.policy, self.model_name)


class LocalReward(ReleasedReward):
    """A released model whose weights are loaded into this process."""

    @abstractmethod
    def start(self) -> Start:
        """Its weights, tokenizer and head, for a training that starts from them."""


def question_of(folder: Path, default: str, placeholders: tuple[str, ...] = ("{prompt}",)) -> tuple[str, str]:
    """The question that a release is asked, and a mark of it for the record: `prompt.txt` of its folder, or `default`.

    A release answers best to the very words that it was trained with, which its authors publish with their code, not
    with the weights.

    Args:
        placeholders: strings that the file must hold once each.

    Raises:
        InputError: the file is no text, or does not hold each placeholder once.
    """
    path = folder / QUESTION_FILE
    if not path.exists():
        return default, f"question of halovid {hash_value(default)[:12]}"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise_shortage(error)
        raise InputError(f"{path} can't be read as UTF-8 text ({error})") from error
    text = text.replace("{text_prompt}", "{prompt}")
    wrong = [placeholder for placeholder in placeholders if text.count(placeholder) != 1]
    if wrong:
        raise InputError(f"{path} must hold {' and '.join(placeholders)} once each; check {', '.join(wrong)}")
    return text, f"question {QUESTION_FILE} {hash_value(text)[:12]}"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a release.

    Raises:
        InputError: the file is missing or damaged, or holds another JSON value.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise_shortage(error)
        raise InputError(f"{path} is missing or damaged ({error}); download the model again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object; download the model again")
    return value
