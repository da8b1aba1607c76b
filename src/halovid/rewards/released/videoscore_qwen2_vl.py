"""VideoScore-Qwen2-VL (TIGER-Lab, Qwen2-VL 7B): VideoScore's five scores.

The folder is a transformers model with a linear head: config.json of architecture Qwen2VLForSequenceClassification,
safetensors with `visual.*`, `model.*`, `score.weight` [5, D] and `score.bias` [5], tokenizer.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from halovid.rewards.pretrained import load_base, load_tokenizer
from halovid.rewards.readers.qwen import QwenReader
from halovid.rewards.readers.text import fill, last_of, plain_text
from halovid.rewards.released.base import LocalReward, Start, question_of
from halovid.rewards.released.qwen_frames import choose_by_rate, read_clip
from halovid.rewards.released.videoscore import ASPECTS, HEAD, QUESTION, read_linear, stretched_head
from halovid.store.errors import InputError

ARCHITECTURE = "Qwen2VLForSequenceClassification"
_FPS = 8.0


class VideoScoreQwen2VL(LocalReward):
    """VideoScore-Qwen2-VL from its folder.

    Raises:
        InputError: the folder is not laid out as released, or its weights do not fit exactly.
    """

    names = ASPECTS

    def __init__(self, folder: Path, name: str, device: torch.device, dtype: torch.dtype) -> None:
        self.model_name = name
        self._question, mark = question_of(folder, QUESTION)
        model = load_base(str(folder), {"qwen2_vl"}, dtype, heads=HEAD)
        if getattr(model.config, "score_type", None) == "special_token":
            raise InputError(
                f"{folder} reads its scores at label tokens; the released model reads them at the last one"
            )
        self._model = model.eval().to(device)
        self._tokenizer = load_tokenizer(folder)
        self._reader = QwenReader(self._model, self._tokenizer, sequential=True)
        self._weight, self._bias = read_linear(folder, len(ASPECTS), model.config.get_text_config().hidden_size)
        self.policy = f"{_FPS:g} frames a second, ends included, clip budget of pixels; {mark}"

    def choose_frames(self, count: int, fps: float) -> list[int]:
        """Eight frames a second."""
        return choose_by_rate(count, fps, _FPS)

    def rate(self, frames: Tensor, prompt: str) -> Tensor:
        """The five scores."""
        question = fill(self._question, prompt=plain_text(self._tokenizer, prompt))
        _, mask, hidden = read_clip(self._reader, self._tokenizer, frames, None, question, self._model.device)
        state = last_of(hidden, mask)[0].float()
        return self._weight.to(state) @ state + self._bias.to(state)

    def overall(self, scores: Tensor) -> float:
        """The mean."""
        return scores.mean().item()

    def start(self) -> Start:
        """Its weights and head; the question stands before the clip, so that its cells have read the prompt."""
        head = stretched_head(self._weight, self._bias)
        return Start(self._model, self._tokenizer, self._question + "{video}", head, sequential=True)
