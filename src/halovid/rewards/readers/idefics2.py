"""How Idefics2 is shown a clip."""

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
    """Shows frames to an Idefics2 model, which resamples each into a fixed number of tokens without a place.

    visual: id of the tokens that stand for frames.  tokens: how many per frame.  patch: side of the vision tower's
    patches in pixels.
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
        """The hidden states [B, L, D] of token ids [B, L] with frames [B, n, 3, H, W] of bytes."""
        pixels = normalise(frames, _HALF, _HALF)
        output = self._model(
            input_ids=ids, attention_mask=mask.long(), pixel_values=pixels.to(self._model.dtype), use_cache=False
        )
        return output.last_hidden_state


class Glances:
    """Keeps, of the model's latest forward pass, the attention of visual tokens to patches, and the patches' features.

    weights: [frames, tokens, patches], attention in the last layer of the resampler, mean over its heads.
    patches: [frames, patches, vision width], the output of the vision tower.
    """

    def __init__(self, model: Any) -> None:
        self.weights = self.patches = torch.empty(0)
        last = model.connector.perceiver_resampler.layers[-1].self_attn
        for layer in model.connector.perceiver_resampler.layers:
            layer.self_attn.config._attn_implementation = "eager"  # the fused kernels give no weights
        last.register_forward_hook(self._keep_weights)
        model.vision_model.register_forward_hook(self._keep_patches)

    def _keep_weights(self, module: Any, inputs: Any, output: Any) -> None:
        patches = self.patches.shape[1]  # tokens attend to each other too; these weights come last
        self.weights = output[1].detach().float().mean(1)[..., :patches]

    def _keep_patches(self, module: Any, inputs: Any, output: Any) -> None:
        self.patches = output.last_hidden_state
