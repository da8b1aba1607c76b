"""How SmolVLM2 is shown a clip."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halovid.rewards.readers.pixels import normalise
from halovid.rewards.readers.text import token_id

KINDS = frozenset({"smolvlm"})
CHAT = "<|im_start|>User: {question}<end_of_utterance>\nAssistant:"
_HALF = (0.5, 0.5, 0.5)


class SmolVLMReader:
    """Shows frames to a SmolVLM model: squares of `side` pixels, each of `cells` x `cells` visual tokens."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        config = model.config
        self.visual = token_id(tokenizer, "<image>", config.image_token_id)
        self.side: int = config.vision_config.image_size
        self.cells: int = self.side // config.vision_config.patch_size // config.scale_factor

    def visual_text(self, seconds: list[float]) -> str:
        """The text that stands for a clip: its frames, and when each of them is shown."""
        tokens = "<image>" * self.cells**2
        picture = f"<fake_token_around_image><global-img>{tokens}<fake_token_around_image>"
        return "".join(f"\nFrame from {int(s) // 60:02d}:{int(s) % 60:02d}:{picture}" for s in seconds)

    def read(self, ids: Tensor, mask: Tensor, frames: Tensor) -> Tensor:
        """The hidden states [B, L, D] of token ids [B, L] with frames [B, n, 3, side, side] of bytes."""
        pixels = normalise(frames, _HALF, _HALF)
        output = self._model(
            input_ids=ids, attention_mask=mask.long(), pixel_values=pixels.to(self._model.dtype), use_cache=False
        )
        return output.last_hidden_state
