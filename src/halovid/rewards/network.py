"""The reward network: a backbone, the prompt, a video head and a patch head on one scale."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from halovid.errors import InputError
from halovid.files import atomic_path, write_text
from halovid.grid import PatchGrid, pool_cells
from halovid.rewards.backbones import BACKBONES, BackboneSpec


class RewardSpec(BaseModel):
    """What a reward network is built from: saved beside its weights as reward.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: BackboneSpec
    prompt_width: int
    aspects: tuple[str, ...]
    patch_aspects: tuple[str, ...]


class RewardNetwork(nn.Module):
    """Rates clips and their patches, given the prompt; outputs are ratings on the judge's scale."""

    def __init__(self, spec: RewardSpec) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = BACKBONES[spec.backbone.name](spec.backbone)
        width = spec.backbone.width
        self.prompt_projection = nn.Linear(spec.prompt_width, width)
        self.prompt_mixer = nn.TransformerDecoderLayer(
            width, spec.backbone.heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)
        self.video_head = nn.Linear(width, len(spec.aspects))
        self.patch_head = nn.Linear(width, len(spec.patch_aspects))

    def features(self, video: Tensor, prompt_embeds: Tensor) -> Tensor:
        """[B, T', h', w', D] of clips [B, 3, F, H, W] and prompts [B, L, D'], whose zero rows are padding."""
        grid = self.backbone(video)
        empty = (prompt_embeds == 0).all(-1)
        kept = max(1, int((~empty).sum(1).max()))
        prompt = self.prompt_projection(prompt_embeds[:, :kept])
        mixed = self.prompt_mixer(grid.flatten(1, 3), prompt, memory_key_padding_mask=empty[:, :kept])
        return self.norm(mixed).unflatten(1, grid.shape[1:4])

    def rate_videos(self, features: Tensor) -> Tensor:
        """Ratings of the clips, [B, aspects]."""
        return self.video_head(features.mean((1, 2, 3)))

    def rate_patches(self, features: Tensor, grid: PatchGrid) -> Tensor:
        """Ratings of all patches in one pass, [B, patch aspects, t, h, w]: each sees its context."""
        pooled = pool_cells(features.movedim(-1, 1), grid)
        return self.patch_head(pooled.movedim(1, -1)).movedim(-1, 1)

    def start_patch_head(self) -> None:
        """Makes the patch head a copy of the video head's rows, so that both begin on one scale."""
        rows = [self.spec.aspects.index(aspect) for aspect in self.spec.patch_aspects]
        with torch.no_grad():
            self.patch_head.weight.copy_(self.video_head.weight[rows])
            self.patch_head.bias.copy_(self.video_head.bias[rows])


def save_reward(network: RewardNetwork, folder: Path) -> None:
    """Writes reward.json and reward.safetensors."""
    write_text(folder / "reward.json", network.spec.model_dump_json(indent=2) + "\n")
    with atomic_path(folder / "reward.safetensors") as temporary:
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, temporary)


def load_reward(folder: Path) -> RewardNetwork:
    """The network that `save_reward` wrote, in evaluation mode.

    Raises:
        InputError: a file is missing, damaged or does not fit.
    """
    try:
        spec = RewardSpec.model_validate_json((folder / "reward.json").read_text(encoding="utf-8"))
        network = RewardNetwork(spec)
        network.load_state_dict(load_file(folder / "reward.safetensors"))
    except (OSError, ValueError, RuntimeError, KeyError, AssertionError, SafetensorError) as error:
        raise InputError(f"{folder} holds no readable reward model ({error}); run `halovid reward` again") from error
    return network.eval().requires_grad_(False)
