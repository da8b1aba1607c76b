"""Vision-language models as backbones: one pass over prompt and clip gives the features of every cell.

The prompt comes before the clip, since the visual tokens of a causal model attend only to what precedes them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import Any, Protocol

import torch
from torch import Tensor

from halovid.rewards.backbones.base import Backbone, Features, LanguageSpec, frame_times
from halovid.rewards.pretrained import add_lora
from halovid.rewards.readers.pixels import resize, to_bytes
from halovid.rewards.readers.text import fill, last_of, plain_text, token_rows, without_pad
from halovid.rewards.released import load_start

QUESTION = 'A text-to-video model was given the prompt "{prompt}" and made this video: {video}How good is it?'


class Reader(Protocol):
    """How a family's model is shown clips. `visual` is the id of the tokens that stand for them."""

    visual: int

    def read(self, ids: Tensor, mask: Tensor, frames: Tensor) -> Tensor:
        """Hidden states [B, L, D] of token ids [B, L] with frames [B, n, 3, H, W] of bytes."""


class LanguageBackbone(Backbone):
    """What all families of vision-language models share; a family says how clips are shown and where its cells are.

    kinds: the `model_type` of transformers models that the family takes.  resampling: how frames are resized.
    """

    pretrained = True
    reads_text = True
    kinds: Collection[str]
    resampling = "bicubic"
    _times: Tensor
    _reader: Reader

    def __init__(self, spec: LanguageSpec) -> None:
        super().__init__()
        self.spec = spec
        self.dtype = getattr(torch, spec.dtype)
        # under LoRA the frozen weights are kept in the number format that they are used in; trained weights in float32
        start = load_start(spec.model, self.kinds, self.dtype if spec.lora else torch.float32)
        self.model: Any = start.model
        self._tokenizer: Any = start.tokenizer
        self.start = start
        if spec.lora:
            self.adapted = "model"
            add_lora(self.model, spec.lora)
        self.register_buffer("_times", frame_times(spec, spec.frames), persistent=False)

    @property
    def seconds(self) -> list[float]:
        """When each frame is shown, from the start of the clip."""
        return [time / self.spec.fps for time in self._times.tolist()]

    def tokenize(self, prompts: list[str]) -> Tensor:
        """[B, L] token ids of the whole conversation about a clip of each prompt, padded with -1."""
        template = self.template()
        texts = [fill(template, prompt=plain_text(self._tokenizer, prompt)) for prompt in prompts]
        return token_rows(self._tokenizer, texts)

    def forward(self, video: Tensor, prompts: Tensor) -> Features:
        """Features of clips and tokenized prompts; the clip's vector is the last token's state."""
        with torch.no_grad():
            frames = to_bytes(video[:, :, self._times]).transpose(1, 2)
            frames = resize(frames, (self.spec.input_height, self.spec.input_width), self.resampling)
        ids, mask = without_pad(prompts, self._reader.visual)
        mixed = self.dtype != torch.float32
        with torch.autocast(video.device.type, dtype=self.dtype if mixed else torch.bfloat16, enabled=mixed):
            hidden = self._reader.read(ids, mask, frames)
            visual = hidden[(ids == self._reader.visual) & mask].unflatten(0, (len(ids), -1))
            cells = self.cells(visual)
        return Features(cells.float(), last_of(hidden, mask).float())

    def checkpoint_gradients(self) -> None:
        """See `Backbone.checkpoint_gradients`; of all layers of the model."""
        self.model.activation_checkpointing_enable({"use_reentrant": False})

    @staticmethod
    @abstractmethod
    def plan(config: Any, frames: int, rows: int, columns: int) -> tuple[int, int, int]:
        """Frames, height and width to show, for so many frames and a grid of rows x columns cells."""

    @abstractmethod
    def template(self) -> str:
        """The conversation, with `{prompt}` where the prompt goes."""

    @abstractmethod
    def cells(self, visual: Tensor) -> Tensor:
        """[B, T', h', w', D] of the visual tokens' states [B, n, D]."""
