"""VideoScore and VideoScore-v1.1 (TIGER-Lab, Idefics2 8B): five scores, nominally 1 to 4.

The folder is a transformers model with a linear head: config.json of architecture Idefics2ForSequenceClassification,
safetensors with `model.*`, `score.weight` [5, D] and `score.bias` [5], tokenizer, preprocessor_config.json.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from halovid.rewards.pretrained import load_base, load_tokenizer
from halovid.rewards.readers.idefics2 import KINDS, Idefics2Reader
from halovid.rewards.readers.pixels import fit_edges, resize
from halovid.rewards.readers.text import fill, last_of, plain_text, token_rows, without_pad
from halovid.rewards.released.base import Head, LocalReward, Start, question_of
from halovid.rewards.released.settings import EdgeLimits, PictureSettings, ProcessorSettings, read_settings
from halovid.rewards.released.weights import read_tensors
from halovid.store.errors import InputError

ARCHITECTURE = "Idefics2ForSequenceClassification"
ASPECTS = ("visual_quality", "temporal_consistency", "dynamic_degree", "text_alignment", "factual_consistency")
HEAD = ("score.weight", "score.bias")
QUESTION = """You are asked to rate a video that was made by a text-to-video model, from its frames and its prompt.
Give a number from 1.0 (bad) to 4.0 (as good as a real video) for each of
(1) visual quality
(2) temporal consistency
(3) dynamic degree
(4) text-to-video alignment
(5) factual consistency

The prompt is "{prompt}". The frames are:
"""
_FRAMES, _FRAMES_V1_1 = 16, 48  # what each version was trained with


class VideoScore(LocalReward):
    """VideoScore from its folder.

    Args:
        name: as the user gave it; a name with v1.1 in it is that version, which sees 48 frames instead of 16.

    Raises:
        InputError: the folder is not laid out as released, or its weights do not fit exactly.
    """

    names = ASPECTS

    def __init__(self, folder: Path, name: str, device: torch.device, dtype: torch.dtype) -> None:
        self.model_name = name
        self._max_frames = _max_frames(name)
        self._edges = _edges(folder)
        self._question, mark = question_of(folder, QUESTION)
        model = load_base(str(folder), KINDS, dtype, heads=HEAD)
        self._model = model.eval().to(device)
        self._tokenizer = load_tokenizer(folder)
        self._reader = Idefics2Reader(self._model, self._tokenizer)
        self._weight, self._bias = read_linear(folder, len(ASPECTS), model.config.get_text_config().hidden_size)
        self.policy = (
            f"at most {self._max_frames} frames, every (count / {self._max_frames})th from the first; "
            f"edges {self._edges.shortest_edge}..{self._edges.longest_edge} px; {mark}"
        )

    def choose_frames(self, count: int, fps: float) -> list[int]:
        """All frames, or as many as the model takes, at equal steps from the first."""
        num_frames = min(count, self._max_frames)
        return [int(index * (count / num_frames)) for index in range(num_frames)]

    def rate(self, frames: Tensor, prompt: str) -> Tensor:
        """The five scores."""
        text = fill(self._question, prompt=plain_text(self._tokenizer, prompt))
        ids = token_rows(self._tokenizer, [text + f"{self._reader.frame_text()} " * len(frames)])
        height, width = frames.shape[-2:]
        size = fit_edges(height, width, self._edges.shortest_edge, self._edges.longest_edge)
        resized = resize(frames, size, "bilinear")[None].to(self._model.device)
        ids, mask = without_pad(ids.to(self._model.device), self._reader.visual)
        state = last_of(self._reader.read(ids, mask, resized), mask)[0].float()
        return self._weight.to(state) @ state + self._bias.to(state)

    def overall(self, scores: Tensor) -> float:
        """The mean."""
        return scores.mean().item()

    def start(self) -> Start:
        """Its weights, its question with the frames after it, and its head with 1..4 stretched to 1..5."""
        head = stretched_head(self._weight, self._bias)
        return Start(self._model, self._tokenizer, self._question + "{video}", head)


def read_linear(folder: Path, outputs: int, width: int) -> tuple[Tensor, Tensor]:
    """`score.weight` [outputs, width] and `score.bias` [outputs] of a folder, float32.

    Raises:
        InputError: they are missing, have other shapes or are not finite.
    """
    head = read_tensors(folder, HEAD)
    weight, bias = (head[name].float() for name in HEAD)
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise InputError(f"the head in {folder} has numbers that are not finite; download the model again")
    if weight.shape != (outputs, width) or bias.shape != (outputs,):
        raise InputError(
            f"the head in {folder} is {tuple(weight.shape)} with bias {tuple(bias.shape)}; it must be "
            f"{(outputs, width)} with bias {(outputs,)}: this is not the released model"
        )
    return weight, bias


def stretched_head(weight: Tensor, bias: Tensor) -> Head:
    """A head of five scores from 1 to 4 whose ratings are from 1 to 5."""
    scale = torch.full((len(ASPECTS),), 4 / 3)
    return Head(weight, bias, ASPECTS, 1 - scale, scale)


def _max_frames(name: str) -> int:
    """How many frames the model sees, by the version in the last part of its name or in its name in the hub's cache."""
    path = Path(name).absolute()
    names = [path.name, *(part for part in path.parts if part.startswith("models--"))]
    return _FRAMES_V1_1 if any("v1.1" in part for part in names) else _FRAMES


def _edges(folder: Path) -> EdgeLimits:
    """The shortest and longest edge that frames are resized to."""
    path, newer = folder / "preprocessor_config.json", folder / "processor_config.json"
    if path.exists() or not newer.exists():
        return read_settings(path, PictureSettings).size
    return read_settings(newer, ProcessorSettings).image_processor.size
