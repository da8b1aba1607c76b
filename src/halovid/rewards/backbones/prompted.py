"""A video encoder that is shown the prompt by one transformer layer on top."""

from __future__ import annotations

from torch import Tensor, nn

from halovid.rewards.backbones.base import Backbone, EncoderSpec, Features
from halovid.rewards.pretrained import add_lora


class PromptedEncoder(Backbone):
    """An encoder of clips, [B, 3, F, H, W] -> [B, T', h', w', D], whose cells attend to the prompt."""

    def __init__(self, encoder: nn.Module, spec: EncoderSpec) -> None:
        super().__init__()
        self.pretrained = spec.model is not None
        self.encoder = encoder
        self.prompt_projection = nn.Linear(spec.prompt_width, spec.width)
        self.prompt_mixer = nn.TransformerDecoderLayer(
            spec.width, spec.heads, 2 * spec.width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(spec.width)
        if spec.lora:
            self.adapted = "encoder"
            add_lora(self.encoder, spec.lora)

    def forward(self, video: Tensor, prompts: Tensor) -> Features:
        """Features of clips and text conditions; the clip's vector is the mean of its cells'."""
        grid = self.encoder(video)
        empty = (prompts == 0).all(-1)  # padding rows
        longest = max(1, int((~empty).sum(1).max()))
        prompt = self.prompt_projection(prompts[:, :longest])
        mixed = self.prompt_mixer(grid.flatten(1, 3), prompt, memory_key_padding_mask=empty[:, :longest])
        cells = self.norm(mixed).unflatten(1, grid.shape[1:4])
        return Features(cells, cells.mean((1, 2, 3)))

    def checkpoint_gradients(self) -> None:
        """See `Backbone.checkpoint_gradients`; only pretrained encoders have activations worth it."""
        base = getattr(self.encoder, "base", None)
        if base is not None:
            base.activation_checkpointing_enable({"use_reentrant": False})
