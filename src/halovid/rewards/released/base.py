"""What all released reward models have in common: their interface, the record of a score, how their files are read."""

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
    """The head of a released model, for a training that starts from it.

    weight: [n, D].  bias: [n].  aspects: which of the recipe's aspects each row rates.
    shift, scale: [n], with which `shift + scale * score` is on the judges' scale of 1 to 5.
    """

    weight: Tensor
    bias: Tensor
    aspects: tuple[str, ...]
    shift: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Start:
    """A language model that a training starts from.

    question: the one that it was trained with, `{prompt}` and `{video}` in it; None if it knows no particular one.
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

    scores: by the release's own names.  overall: the one number that its authors make of them.
    frames: indices into the clip.  fps: frames of the clip a second.  policy: how frames were chosen and shown, and
    the question.  model: as the user named it.
    """

    scores: dict[str, float]
    overall: float
    frames: tuple[int, ...]
    fps: float
    policy: str
    model: str


class UnscoredError(ValueError):
    """A clip that a reward model gave no score for, and why; other clips may go on.

    again: another time it may get one, as after a server's outage.
    """

    def __init__(self, reason: str, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


class ReleasedReward(ABC):
    """A published video reward model, read here or asked over HTTP.

    names: of its scores, in the order of its outputs.  model_name, policy: see `ReleasedScore`.
    """

    names: tuple[str, ...]
    model_name: str
    policy: str

    @abstractmethod
    def choose_frames(self, count: int, fps: float) -> list[int]:
        """Which of a clip's frames it is shown."""

    @abstractmethod
    def rate(self, frames: Tensor, prompt: str) -> Tensor:
        """Its scores, [names], of frames [n, 3, H, W] of bytes."""

    @abstractmethod
    def overall(self, scores: Tensor) -> float:
        """The one number that its authors make of the scores."""

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
        named = dict(zip(self.names, scores.tolist(), strict=True))
        return ReleasedScore(named, self.overall(scores), tuple(chosen), fps, self.policy, self.model_name)


class LocalReward(ReleasedReward):
    """A released model whose weights are loaded into this process."""

    @abstractmethod
    def start(self) -> Start:
        """Its weights, tokenizer and head, for a training that goes on from them."""


def question_of(folder: Path, default: str, needed: tuple[str, ...] = ("{prompt}",)) -> tuple[str, str]:
    """The question that a release is asked, and what to record of it: `prompt.txt` of its folder, or halovid's own.

    A release answers best to the very words that it was trained with; its authors publish them with their code, not
    with the weights.

    Raises:
        InputError: the file is no text, or lacks one of the strings that are needed.
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
    lacking = [part for part in needed if text.count(part) != 1]
    if lacking:
        raise InputError(f"{path} must hold {' and '.join(needed)} once each; check {', '.join(lacking)}")
    return text, f"question {QUESTION_FILE} {hash_value(text)[:12]}"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a release.

    Raises:
        InputError: the file is missing or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise_shortage(error)
        raise InputError(f"{path} is missing or damaged ({error}); download the model again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object; download the model again")
    return value
