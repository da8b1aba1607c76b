"""Records that several packages exchange: prompts and their conditionings, answers of judges, rewards, measures."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.store.checkpoint import load_tensors, save_tensors

MAX_CHARACTERS = 4000  # of a prompt: more than any text encoder reads
LOWEST, HIGHEST = 1.0, 5.0  # the scale of every rating of a clip or a patch; higher is better
DEFECT_RATING = 4.2  # a patch rated below this is defective: the embedded world's threshold on this scale
Rounds = list[list[int]]  # patches to ask about, as indices into the flattened [t, h, w]: a list for each round


@dataclass(frozen=True)
class Prompt:
    """A prompt's text and its id, which is unique in a run."""

    prompt_id: str
    text: str


def prompt_problem(text: Any) -> str | None:
    """Why a prompt can't be used, or None."""
    if text is None or text == "":
        return "empty"
    if not isinstance(text, str):
        return f"not a text but {type(text).__name__}"
    if not text.strip():
        return "empty"
    if len(text) > MAX_CHARACTERS:
        return f"{len(text)} characters long, at most {MAX_CHARACTERS} are read"
    control = sorted({f"U+{ord(c):04X}" for c in text.strip() if unicodedata.category(c) in ("Cc", "Cs")})
    return f"contains control characters ({', '.join(control[:5])})" if control else None


@dataclass(frozen=True)
class Conditioning:
    """B encoded prompts: the tensors that a diffusion pipeline can be called with instead of the texts.

    tensors: argument name of the pipeline's call -> [B, ...], a row per prompt: text states, and whatever else the
    model reads (masks, pooled vectors). Only the model's family knows what they mean; all others use `text_states`.

    Raises:
        ValueError: the tensors have different numbers of rows.
    """

    tensors: dict[str, Tensor]

    def __post_init__(self) -> None:
        if len({len(value) for value in self.tensors.values()}) != 1:
            rows = {name: tuple(value.shape) for name, value in self.tensors.items()}
            raise ValueError(f"a conditioning has tensors of equally many rows, got {rows}")

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def rows(self, indices: Sequence[int] | Tensor) -> Conditioning:
        """The prompts of these indices, or those that a boolean mask [B] keeps."""
        chosen = torch.as_tensor(indices)
        return Conditioning({name: value[chosen.to(value.device)] for name, value in self.tensors.items()})

    @classmethod
    def cat(cls, conditionings: Sequence[Conditioning]) -> Conditioning:
        """The rows of all conditionings, one after the other; shorter texts and masks are padded with zeros at the end.

        Raises:
            ValueError: there is none, or they hold tensors of different names, as those of different models do.
        """
        names = [conditioning.tensors.keys() for conditioning in conditionings]
        if not names or any(keys != names[0] for keys in names):
            raise ValueError(
                f"conditionings of one model have the same tensors, got {[sorted(keys) for keys in names]}"
            )
        return cls({name: _cat_padded([each.tensors[name] for each in conditionings]) for name in names[0]})

    def to(self, device: torch.device | str) -> Conditioning:
        """The conditioning on another device."""
        return Conditioning({name: value.to(device) for name, value in self.tensors.items()})

    def repeat(self, count: int) -> Conditioning:
        """All rows, `count` times one after the other: [count * B, ...]."""
        return Conditioning({name: torch.cat([value] * count) for name, value in self.tensors.items()})

    def text_states(self) -> Tensor:
        """The text encoder's output for each token, [B, L, D] float32; zero for tokens that the model does not read."""
        states = self.tensors["prompt_embeds"].float()
        for name, mask in self.tensors.items():
            if name.endswith("mask") and mask.shape == states.shape[:2]:
                return states * (mask > 0)[..., None]
        return states

    def save(self, path: Path) -> None:
        """Writes the conditioning of a single prompt as a safetensors file.

        Raises:
            ValueError: there are several prompts.
        """
        if len(self) != 1:
            raise ValueError(f"a file holds the conditioning of one prompt, not of {len(self)}")
        save_tensors(path, {name: value[0] for name, value in self.tensors.items()})

    @classmethod
    def load(cls, path: Path) -> Conditioning:
        """The conditioning of the one prompt that `save` wrote.

        Raises:
            InputError: the file is missing or damaged.
        """
        return cls({name: value[None] for name, value in load_tensors(path)[0].items()})


def _cat_padded(values: Sequence[Tensor]) -> Tensor:
    """Tensors [B, ...] concatenated along the first axis, padded with zeros at the end of each other axis."""
    longest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    padded = []
    for value in values:
        missing = [length - size for length, size in zip(longest, value.shape[1:], strict=True)]
        padding = [amount for count in reversed(missing) for amount in (0, count)]  # last axis first: before, after
        padded.append(torch.nn.functional.pad(value, padding) if any(padding) else value)
    return torch.cat(padded)


@dataclass(frozen=True)
class Request:
    """A clip that a judge is asked to rate.

    video: [3, F, H, W] in [-1, 1].
    rounds: the patches that are asked about; None asks about all. The answer may rate further patches too.
    """

    video: Tensor
    prompt: str
    clip_id: str
    rounds: Rounds | None = None


@dataclass(frozen=True)
class Vote:
    """One opinion that went into a rating.

    patch: its index into the flattened [t, h, w]; None for an opinion of the whole clip.
    voter: who gave it.  score: on the scale of ratings.  kind: the kind of defect.  reason: in the voter's words.
    """

    aspect: str
    patch: int | None
    voter: str
    score: float
    kind: str
    reason: str


@dataclass(frozen=True)
class Judgement:
    """A judge's ratings of one clip.

    clip: aspect -> rating of the whole clip.  patches: aspect -> ratings [t, h, w], NaN for patches without one.
    votes: the opinions that the ratings are means of; empty for judges that do not explain themselves.
    """

    clip: dict[str, float]
    patches: dict[str, Tensor]
    votes: tuple[Vote, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """Why a clip could not be judged or rewarded; `again`: another attempt may succeed, as after a server's outage."""

    reason: str
    again: bool = False


@dataclass(frozen=True)
class Measure:
    """How a measure is shown to people; tables hold its id instead.

    title: its name.  group: the heading that it is listed under: who or what measured.  unit: "" for none.
    better: the direction that is an improvement; "same" for a property that an alignment should not change.
    defect_kind: the kind of defect that the measure is the share of; None for all other measures. Measures with a kind
        are shown as one chart, the others as rows of a table.
    """

    title: str
    group: str
    unit: str
    better: Literal["lower", "higher", "same"]
    defect_kind: str | None = None


@dataclass(frozen=True)
class ClipBatch:
    """Clips of one model that are measured together; all samples of a prompt are in the same batch.

    video: [B, 3, F, H, W] in [-1, 1].  rows: clip_id, prompt_id, prompt and fps of each clip, perhaps more.
    geometry: the strides of the model's autoencoder.  grid: the patches of a clip.
    conditioning: function (prompt ids) -> their conditioning, a row each.
    """

    video: Tensor
    rows: Sequence[dict[str, Any]]
    geometry: LatentGeometry
    grid: PatchGrid
    conditioning: Callable[[Sequence[str]], Conditioning]

    @property
    def prompt_ids(self) -> list[str]:
        """The prompt of each clip."""
        return [row["prompt_id"] for row in self.rows]


@dataclass(frozen=True)
class PromptBatch:
    """What a rewarder gets of B clips besides their pixels.

    texts: the prompt of each clip.
    conditioning: that of the prompts, a row for each clip; None where they were not encoded.
    fps: the frame rate of each clip.
    geometry: the strides of the diffusion model's autoencoder, which decide where patches lie in time.

    Raises:
        ValueError: texts, conditioning and fps are not of equal length.
    """

    texts: tuple[str, ...]
    conditioning: Conditioning | None
    fps: tuple[float, ...]
    geometry: LatentGeometry

    @classmethod
    def of_rows(
        cls,
        rows: Sequence[Mapping[str, Any]],
        geometry: LatentGeometry,
        condition: Callable[[Sequence[str]], Conditioning] | None,
    ) -> PromptBatch:
        """The batch of the clips in these rows of tables.CLIPS.

        Args:
            condition: function (prompt ids) -> their conditioning; None for a rewarder that needs none.
        """
        conditioning = condition([row["prompt_id"] for row in rows]) if condition else None
        return cls(tuple(row["prompt"] for row in rows), conditioning, tuple(row["fps"] for row in rows), geometry)

    @classmethod
    def of_prompts(
        cls, prompts: Sequence[Prompt], conditioning: Conditioning | None, fps: float, geometry: LatentGeometry
    ) -> PromptBatch:
        """The batch of clips of these prompts, a clip each, that share a frame rate."""
        return cls(tuple(prompt.text for prompt in prompts), conditioning, (fps,) * len(prompts), geometry)

    def __post_init__(self) -> None:
        lengths = {len(self.texts), len(self.fps), len(self.texts if self.conditioning is None else self.conditioning)}
        if len(lengths) > 1:
            raise ValueError(f"texts, conditioning and fps must have a row for each clip, their lengths are {lengths}")

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, indices: Sequence[int]) -> PromptBatch:
        """The clips of these indices, in this order."""
        return PromptBatch(
            tuple(self.texts[index] for index in indices),
            None if self.conditioning is None else self.conditioning.rows(indices),
            tuple(self.fps[index] for index in indices),
            self.geometry,
        )


@dataclass(frozen=True)
class AspectRatings:
    """Ratings of B clips in one aspect: `clip` [B], and `patches` [B, t, h, w] or None if only clips are rated."""

    clip: Tensor
    patches: Tensor | None


@dataclass(frozen=True)
class Showing:
    """The input of a released reward model for one clip, without which its score can't be interpreted.

    frames: indices of the clip's frames that it saw.
    policy: how these were chosen and resized, and the question that was asked.  model: its name.
    """

    frames: tuple[int, ...]
    policy: str
    model: str


@dataclass(frozen=True)
class Rewards:
    """Rewards of B clips and of their patches, higher is better: float32 on the CPU, NaN in the rows of refused clips.

    clip: [B].  patches: [B, t, h, w].  refusals: [B], why a clip has no reward; None for a clip that has one.
    ratings: aspect, by the rewarder's own name -> the ratings that the rewards come from; may be empty.
    showings: [B], what a released model was shown of each clip, None for a refused clip; empty for other rewarders.
    """

    clip: Tensor
    patches: Tensor
    refusals: tuple[Refusal | None, ...]
    ratings: dict[str, AspectRatings] = field(default_factory=dict)
    showings: tuple[Showing | None, ...] = ()

    @property
    def patch_means(self) -> Tensor:
        """The mean reward of each clip's patches, [B]."""
        return self.patches.flatten(1).mean(1)
