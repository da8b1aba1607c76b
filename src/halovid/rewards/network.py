"""The reward network: a backbone with a video head and a patch head, whose ratings are on one scale."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from halovid.maths.grid import PatchGrid, pool_cells
from halovid.rewards.backbones import EncoderSpec, Features, LanguageSpec, make_backbone
from halovid.rewards.backbones.language import LanguageBackbone
from halovid.rewards.pretrained import one_line
from halovid.store.errors import InputError
from halovid.store.files import atomic_path, write_text

_CHECKSUM = "sha256"  # name in the metadata of the weights
_LEAST_SPREAD = 0.1  # of an aspect's ratings: one that is always rated alike must not blow up its scale


class RewardSpec(BaseModel):
    """What a reward network is built from: saved beside its weights as reward.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: EncoderSpec | LanguageSpec
    aspects: tuple[str, ...]
    patch_aspects: tuple[str, ...]


class RewardNetwork(nn.Module):
    """Rates clips and their patches, given the prompt.

    The heads give scores; a rating is `shift + scale * score` with one shift and scale per aspect, for clips and
    patches alike. They are stored with the weights and say what scale the ratings are on: the judge's.
    """

    shift: Tensor  # [aspects]
    scale: Tensor  # [aspects]

    def __init__(self, spec: RewardSpec) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = make_backbone(spec.backbone)
        self.video_head = nn.Linear(spec.backbone.width, len(spec.aspects))
        self.patch_head = nn.Linear(spec.backbone.width, len(spec.patch_aspects))
        self.register_buffer("shift", torch.zeros(len(spec.aspects)))
        self.register_buffer("scale", torch.ones(len(spec.aspects)))
        self.patch_rows = [spec.aspects.index(aspect) for aspect in spec.patch_aspects]

    def features(self, video: Tensor, prompts: Tensor) -> Features:
        """Features of clips [B, 3, F, H, W] in [-1, 1] and prompts, as `data.prompt_inputs` gives them."""
        return self.backbone(video, prompts)

    def score_videos(self, features: Features) -> Tensor:
        """Scores of the clips, [B, aspects]: before shift and scale."""
        return self.video_head(features.clip)

    def score_patches(self, features: Features, grid: PatchGrid) -> Tensor:
        """Scores of all patches in one pass, [B, patch aspects, t, h, w]: each sees its context."""
        pooled = pool_cells(features.grid.movedim(-1, 1), grid)
        return self.patch_head(pooled.movedim(1, -1)).movedim(-1, 1)

    def rate_videos(self, features: Features) -> Tensor:
        """Ratings of the clips, [B, aspects]."""
        return self.shift + self.scale * self.score_videos(features)

    def rate_patches(self, features: Features, grid: PatchGrid) -> Tensor:
        """Ratings of all patches, [B, patch aspects, t, h, w]."""
        shift, scale = (value[self.patch_rows].view(-1, 1, 1, 1) for value in (self.shift, self.scale))
        return shift + scale * self.score_patches(features, grid)

    def start_heads(self, clip_labels: Tensor) -> None:
        """Prepares the heads for a training.

        Shift and scale become the mean and the spread of the labels. Where the backbone is a released reward model, its
        head becomes the video head of the aspects that both know, with the shift and scale of the release.

        Args:
            clip_labels: [n, aspects], the ratings to learn.
        """
        with torch.no_grad():
            self.shift.copy_(clip_labels.mean(0))
            self.scale.copy_(clip_labels.std(0).clamp(min=_LEAST_SPREAD))
            if not isinstance(self.backbone, LanguageBackbone) or (head := self.backbone.start.head) is None:
                return
            for row, aspect in enumerate(head.aspects):
                if aspect in self.spec.aspects:
                    our_row = self.spec.aspects.index(aspect)
                    self.video_head.weight[our_row] = head.weight[row].to(self.shift)
                    self.video_head.bias[our_row] = head.bias[row].to(self.shift)
                    self.shift[our_row], self.scale[our_row] = head.shift[row], head.scale[row]

    def start_patch_head(self) -> None:
        """Makes the patch head a copy of the video head's rows, so that both begin on one scale."""
        with torch.no_grad():
            self.patch_head.weight.copy_(self.video_head.weight[self.patch_rows])
            self.patch_head.bias.copy_(self.video_head.bias[self.patch_rows])

    def stored_state(self) -> dict[str, Tensor]:
        """What must be kept of this network: all of it, or without the frozen weights under LoRA adapters."""
        adapted = self.backbone.adapted
        return {
            name: value
            for name, value in self.state_dict().items()
            if adapted is None or ".lora_" in name or not name.startswith(f"backbone.{adapted}.")
        }

    def load_stored(self, state: dict[str, Tensor]) -> None:
        """Takes over what `stored_state` gave of a network like this one.

        Raises:
            KeyError: a name is missing or there is one too many.
        """
        expected = self.stored_state().keys()
        if expected != state.keys():
            raise KeyError(f"weights that are missing or too many: {sorted(expected ^ state.keys())[:3]}")
        self.load_state_dict(state, strict=False)  # the names agree; frozen weights are those of the pretrained model


def continue_reward(folder: Path, spec: RewardSpec) -> RewardNetwork:
    """The network in a folder, ready to be trained on; its heads and its scale stay as they are.

    Raises:
        InputError: see `load_reward`, or it is of another shape than `spec`.
    """
    network = load_reward(folder)
    stored, wanted = (
        each.model_dump(exclude={"backbone"}) | each.backbone.model_dump() for each in (network.spec, spec)
    )
    differing = [
        f"{key} {stored.get(key)!r}, not {value!r}" for key, value in wanted.items() if stored.get(key) != value
    ]
    if differing:
        raise InputError(f"the reward model in {folder} is of another shape than this recipe's: {'; '.join(differing)}")
    return network.requires_grad_(True)


def save_reward(network: RewardNetwork, folder: Path) -> None:
    """Writes reward.json and reward.safetensors, whose metadata holds a checksum of both."""
    spec = network.spec.model_dump_json(indent=2) + "\n"
    state = {name: value.cpu().contiguous() for name, value in network.stored_state().items()}
    write_text(folder / "reward.json", spec)
    with atomic_path(folder / "reward.safetensors") as temporary:
        save_file(state, temporary, metadata={_CHECKSUM: _checksum(spec, state)})


def load_reward(folder: Path) -> RewardNetwork:
    """The network that `save_reward` wrote, in evaluation mode.

    Raises:
        InputError: a file is missing, damaged or does not fit, or the pretrained model that it adapts is not there.
    """
    try:
        spec, state = _read_checked(folder)
        network = RewardNetwork(RewardSpec.model_validate_json(spec))
        network.load_stored(state)
    except InputError as error:  # it tells enough: the pretrained model that is adapted is missing or damaged
        raise InputError(f"the reward model in {folder} can't be used: {error}") from error
    except (
        OSError,
        ValueError,
        RuntimeError,
        LookupError,
        ArithmeticError,
        AssertionError,
        TypeError,
        SafetensorError,
    ) as error:
        raise InputError(
            f"{folder} holds no readable reward model ({one_line(error)}); run `halovid reward` again"
        ) from error
    return network.eval().requires_grad_(False)


def _read_checked(folder: Path) -> tuple[str, dict[str, Tensor]]:
    """The text of reward.json, and the tensors beside it.

    Raises:
        ValueError: they are not what was saved. Models of before there was a checksum are taken as they are.
        OSError, SafetensorError: a file can't be read.
    """
    spec = (folder / "reward.json").read_text(encoding="utf-8")
    with safe_open(folder / "reward.safetensors", framework="pt") as file:
        metadata = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}
    if metadata.get(_CHECKSUM, checksum := _checksum(spec, state)) != checksum:
        raise ValueError("reward.json or reward.safetensors is not what was saved: their checksum differs")
    return spec, state


def _checksum(spec: str, state: dict[str, Tensor]) -> str:
    """SHA-256 of a specification and of tensors: their names, types, shapes and bytes; hexadecimal."""
    digest = hashlib.sha256(spec.encode())
    for name in sorted(state):
        value = state[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
