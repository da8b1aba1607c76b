"""The reward network: a backbone with a head for clips and a head for patches, whose ratings are on one scale."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from halovid.maths.grid import PatchGrid, pool_cells
from halovid.rewards.backbones import AnySpec, Features, make_backbone
from halovid.rewards.backbones.language import LanguageBackbone
from halovid.rewards.pretrained import one_line
from halovid.store.checkpoint import checksum_of_tensors
from halovid.store.errors import InputError
from halovid.store.files import atomic_path, write_text

WEIGHTS_FILE, SPEC_FILE = "reward.safetensors", "reward.json"  # the files of a reward model
_CHECKSUM = "sha256"  # key of the checksum in the metadata of reward.safetensors
_MIN_SCALE = 0.1  # of an aspect whose labels hardly differ, so that scores are not divided by nearly zero


class RewardSpec(BaseModel):
    """What a reward network is built from; saved beside its weights as reward.json.

    patch_aspects: those of `aspects` that patches are rated in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: AnySpec
    aspects: tuple[str, ...]
    patch_aspects: tuple[str, ...]


class RewardNetwork(nn.Module):
    """Rates clips and their patches, given the prompt.

    The heads give scores; a rating is `shift + scale * score` on the judge's scale. Shift and scale, one of each per
    aspect, are the same for clips and patches, and are stored with the weights.

    patch_rows: indices of the patch aspects in `spec.aspects`.
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
        """The features of clips [B, 3, F, H, W] in [-1, 1] and their prompts, as `data.prompt_inputs` returns them."""
        return self.backbone(video, prompts)

    def score_videos(self, features: Features) -> Tensor:
        """The scores of the clips, [B, aspects]: before shift and scale."""
        return self.video_head(features.clip)

    def score_patches(self, features: Features, grid: PatchGrid) -> Tensor:
        """The scores of all patches in one pass, [B, patch aspects, t, h, w]: each sees its context."""
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

        Shift and scale become mean and standard deviation of the labels. If the backbone is a released reward model,
        the rows of its head replace those of the video head in the aspects that both have, with the release's shift
        and scale.

        Args:
            clip_labels: [n, aspects], the ratings to learn.
        """
        with torch.no_grad():
            self.shift.copy_(clip_labels.mean(0))
            self.scale.copy_(clip_labels.std(0).clamp(min=_MIN_SCALE))
            if not isinstance(self.backbone, LanguageBackbone) or (head := self.backbone.start.head) is None:
                return
            for released_row, aspect in enumerate(head.aspects):
                if aspect in self.spec.aspects:
                    row = self.spec.aspects.index(aspect)
                    self.video_head.weight[row] = head.weight[released_row].to(self.shift)
                    self.video_head.bias[row] = head.bias[released_row].to(self.shift)
                    self.shift[row], self.scale[row] = head.shift[released_row], head.scale[released_row]

    def start_patch_head(self) -> None:
        """Makes the patch head a copy of the video head's rows, so that both begin on one scale."""
        with torch.no_grad():
            self.patch_head.weight.copy_(self.video_head.weight[self.patch_rows])
            self.patch_head.bias.copy_(self.video_head.bias[self.patch_rows])

    def stored_state(self) -> dict[str, Tensor]:
        """The tensors to save: all, or with LoRA adapters all but the frozen pretrained weights that they adapt."""
        adapted = self.backbone.adapted
        return {
            name: value
            for name, value in self.state_dict().items()
            if adapted is None or ".lora_" in name or not name.startswith(f"backbone.{adapted}.")
        }

    def load_stored(self, state: dict[str, Tensor]) -> None:
        """Loads what `stored_state` returned for a network of the same specification.

        Raises:
            KeyError: a tensor is missing, or there is one too many.
        """
        expected = self.stored_state().keys()
        if expected != state.keys():
            raise KeyError(f"weights that are missing or too many: {sorted(expected ^ state.keys())[:3]}")
        self.load_state_dict(state, strict=False)  # the names agree; frozen weights are those of the pretrained model


def continue_reward(folder: Path, spec: RewardSpec) -> RewardNetwork:
    """The network that a folder holds, to continue its training; its heads and its scale stay as they are.

    Args:
        spec: what the recipe asks for, which the network must have been built from.

    Raises:
        InputError: see `load_reward`, or the network has another specification.
    """
    network = load_reward(folder)
    stored, expected = (
        each.model_dump(exclude={"backbone"}) | each.backbone.model_dump() for each in (network.spec, spec)
    )
    differing = [
        f"{key} {stored.get(key)!r}, not {value!r}" for key, value in expected.items() if stored.get(key) != value
    ]
    if differing:
        raise InputError(f"the reward model in {folder} is of another shape than this recipe's: {'; '.join(differing)}")
    return network.requires_grad_(True)


def save_reward(network: RewardNetwork, folder: Path) -> None:
    """Writes reward.json and reward.safetensors, whose metadata holds a checksum of both."""
    spec = network.spec.model_dump_json(indent=2) + "\n"
    state = {name: value.cpu().contiguous() for name, value in network.stored_state().items()}
    write_text(folder / SPEC_FILE, spec)
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(state, temporary, metadata={_CHECKSUM: checksum_of_tensors(state, spec)})


def find_reward(folder: Path) -> Path:
    """The folder of a reward model, of which `folder` is one, or a run that has one in its stage `reward`."""
    in_run = folder / "reward"
    return in_run if (in_run / SPEC_FILE).is_file() else folder


def load_reward(folder: Path) -> RewardNetwork:
    """The network that `save_reward` wrote, in evaluation mode.

    Raises:
        InputError: a file is missing, damaged or does not fit, or the pretrained model that it adapts is not there.
    """
    try:
        spec, state = _read_checked(folder)
        network = RewardNetwork(RewardSpec.model_validate_json(spec))
        network.load_stored(state)
    except InputError as error:  # the pretrained model that is adapted is missing or damaged
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
    """The text of reward.json and the tensors of reward.safetensors.

    Raises:
        ValueError: they are not what was saved. Files without a checksum, as older versions wrote, are not checked.
        OSError, SafetensorError: a file can't be read.
    """
    spec = (folder / SPEC_FILE).read_text(encoding="utf-8")
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
        metadata = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}
    if _CHECKSUM in metadata and metadata[_CHECKSUM] != checksum_of_tensors(state, spec):
        raise ValueError("reward.json or reward.safetensors is not what was saved: their checksum differs")
    return spec, state
