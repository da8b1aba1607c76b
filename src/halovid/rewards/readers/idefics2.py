"""Idefics2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from halovid.rewards.readers.pixels import normalise
from halovid.rewards.readers.text import token_id

KINDS = frozenset({"idefics2"})
CHAT = "User:{question}<end_of_utterance>\nAssistant:"
FRAME = "<fake_token_around_image>", "<image>"
_HALF = (0.5, 0.5, 0.5)


class Idefics2Reader:
    """Shows an Idefics2 model frames.

    Each frame's patches are resampled into a fixed number of tokens that lie nowhere in particular.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self.visual = token_id(tokenizer, FRAME[1], model.config.image_token_id)
        self.tokens: int = model.config.perceiver_config.resampler_n_latents
        self.patch: int = model.config.vision_config.patch_size

    def frame_text(self) -> str:
        """The text that stands for one frame."""
        border, token = FRAME
        return border + token * self.tokens + border

    def read(self, ids: Tensor, mask: Tensor, frames: Tensor) -> Tensor:
        """Hidden states [B, L, D] of token ids [B, L] with frames [B, n, 3, H, W] of bytes."""
        pixels = normalise(frames, _HALF, _HALF)
        output = self._model(
            input_ids=ids, attention_mask=mask.long(), pixel_values=pixels.to(self._model.dtype), use_cache=False
        )
        return output.last_hidden_state


class Glances:
    """Where the tokens of each frame looked, and what the vision tower saw there, of the reader's latest call.

    weights: [frames, tokens, patches], of attention.  patches: [frames, patches, vision width].
    """

    def __init__(self, model: Any) -> None:
        self.weights = self.patches = torch.empty(0)
        last = model.connector.perceiver_resampler.layers[-1].self_attn
        for layer in model.connector.perceiver_resampler.layers:
            layer.self_attn.config._attn_implementation = "eager"  # the fused kernels give no weights
        last.register_forward_hook(self._keep_weights)
        model.vision_model.register_forward_hook(self._keep_patches)

    def _keep_weights(self, module: Any, inputs: Any, output: Any) -> None:
        patches = self.patches.shape[1]  # tokens look at each other too: those weights come last
        self.weights = output[1].detach().float().mean(1)[..., :patches]  # mean over heads

    def _keep_patches(self, module: Any, inputs: Any, output: Any) -> None:
        self.patches = output.last_hidden_state
