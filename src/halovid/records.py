"""Records that cross floors: prompts and what they make a model do, answers of judges, rewards, measures."""

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

MAX_CHARACTERS = 4000  # longer than any text encoder reads


Rounds = list[list[int]]  # places in [t, h, w], flattened, in the rounds in which they were chosen
LOWEST, HIGHEST = 1.0, 5.0  # every rating, of clips and patches, is on this scale; higher is better
DEFECT_RATING = 4.2  # a patch rated below this is defective: the embedded world's threshold on this scale


@dataclass(frozen=True)
class Prompt:
    """A prompt and its name in this run."""

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
    """What prompts make a diffusion model do: tensors by the names that its pipeline's call gives them.

    `tensors[name]` is [B, ...], a row per prompt: text states, and whatever else the model reads (masks, pooled
    vectors). Only the model's family knows what they mean; others may ask for `text_states`.
    """

    tensors: dict[str, Tensor]

    def __post_init__(self) -> None:
        if len({len(value) for value in self.tensors.values()}) != 1:
            rows = {name: tuple(value.shape) for name, value in self.tensors.items()}
            raise ValueError(f"a conditioning has tensors of equally many rows, got {rows}")

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def rows(self, indices: Sequence[int] | Tensor) -> Conditioning:
        """The prompts of these indices, or of a mask."""
        chosen = torch.as_tensor(indices)
        return Conditioning({name: value[chosen.to(value.device)] for name, value in self.tensors.items()})

    @classmethod
    def cat(cls, parts: Sequence[Conditioning]) -> Conditioning:
        """All prompts of all parts; shorter texts are padded with zeros at their ends, and so are their masks.

        Raises:
            ValueError: the parts are of different models.
        """
        names = [part.tensors.keys() for part in parts]
        if not parts or any(other != names[0] for other in names):
            raise ValueError(
                f"conditionings of one model have the same tensors, got {[sorted(keys) for keys in names]}"
            )
        return cls({name: _cat_padded([part.tensors[name] for part in parts]) for name in names[0]})

    def to(self, device: torch.device | str) -> Conditioning:
        """The same on another device."""
        return Conditioning({name: value.to(device) for name, value in self.tensors.items()})

    def repeat(self, count: int) -> Conditioning:
        """All rows, `count` times over."""
        return Conditioning({name: torch.cat([value] * count) for name, value in self.tensors.items()})

    def text_states(self) -> Tensor:
        """[B, L, D] float32, what the text encoder made of each token; rows that the model does not read are zero."""
        states = self.tensors["prompt_embeds"].float()
        for name, mask in self.tensors.items():
            if name.endswith("mask") and mask.shape == states.shape[:2]:
                return states * (mask > 0)[..., None]
        return states

    def save(self, path: Path) -> None:
        """Writes the one prompt that this is the conditioning of, as a safetensors file."""
        if len(self) != 1:
            raise ValueError(f"a file holds the conditioning of one prompt, not of {len(self)}")
        save_tensors(path, {name: value[0] for name, value in self.tensors.items()})

    @classmethod
    def load(cls, path: Path) -> Conditioning:
        """The one prompt that `save` wrote.

        Raises:
            InputError: the file is missing or damaged.
        """
        return cls({name: value[None] for name, value in load_tensors(path)[0].items()})


def _cat_padded(values: Sequence[Tensor]) -> Tensor:
    """Tensors [B, ...] one after the other, padded at the end of every other axis to the longest."""
    longest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    padded = []
    for value in values:
        missing = [length - size for length, size in zip(longest, value.shape[1:], strict=True)]
        sides = [side for count in reversed(missing) for side in (0, count)]
        padded.append(torch.nn.functional.pad(value, sides) if any(sides) else value)
    return torch.cat(padded)


@dataclass(frozen=True)
class Request:
    """A clip to judge, [3, F, H, W] in [-1, 1], and the patches that are asked about: all if `rounds` is None.

    Ratings of other patches may come too.
    """

    video: Tensor
    prompt: str
    clip_id: str
    rounds: Rounds | None = None


@dataclass(frozen=True)
class Vote:
    """One opinion that went into a rating: of the whole clip, or of a patch (its place in [t, h, w], flattened)."""

    aspect: str
    patch: int | None
    voter: str
    score: float
    kind: str
    reason: str


@dataclass(frozen=True)
class Judgement:
    """Ratings of one clip: aspect -> rating of the clip; aspect -> ratings of its patches, [t, h, w], NaN if unknown.

    Judges that explain themselves give the votes that the ratings are means of.
    """

    clip: dict[str, float]
    patches: dict[str, Tensor]
    votes: tuple[Vote, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """A clip that could not be judged or rewarded, and why; `again`: asking another time may help."""

    reason: str
    again: bool = False


@dataclass(frozen=True)
class Measure:
    """What people see of a measure, which tables call by its id.

    title: its name.  group: who measured, the heading it stands under.  unit: "" for none.
    better: the direction that is an improvement; "same" for what an alignment should leave alone.
    defect_kind: of the shares of defects by kind, which are one chart instead of lines in a table, the kind.
    """

    title: str
    group: str
    unit: str
    better: Literal["lower", "higher", "same"]
    defect_kind: str | None = None


@dataclass(frozen=True)
class ClipBatch:
    """Clips of one model that are measured together; all samples of a prompt are in the same batch.

    video: [B, 3, F, H, W] in [-1, 1].  rows: of each clip at least its clip_id, prompt_id, prompt and fps.
    geometry: how the model's autoencoder divides a clip.  grid: the patches.
    conditioning: prompt ids -> what they make the model do, a row each.
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
    """What a rewarder is told of B clips besides their pixels: their prompts, and how they are laid out in time.

    texts: their prompts.  conditioning: what these prompts make the diffusion model do, a row each; None where nobody
    encoded them.  fps: frames a second at which each clip is played.
    geometry: how the diffusion model divides a clip, and with it the patches.

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
        """What is told of clips by their rows of tables.CLIPS.

        Args:
            condition: prompt ids -> their conditioning; None for a rewarder that needs none.
        """
        conditioning = condition([row["prompt_id"] for row in rows]) if condition else None
        return cls(tuple(row["prompt"] for row in rows), conditioning, tuple(row["fps"] for row in rows), geometry)

    def __post_init__(self) -> None:
        lengths = {len(self.texts), len(self.fps), len(self.texts if self.conditioning is None else self.conditioning)}
        if len(lengths) > 1:
            raise ValueError(f"texts, conditioning and fps must have a row for each clip, their lengths are {lengths}")

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, indices: Sequence[int]) -> PromptBatch:
        """What is told of some of the clips, in the order of `indices`."""
        return PromptBatch(
            tuple(self.texts[index] for index in indices),
            None if self.conditioning is None else self.conditioning.rows(indices),
            tuple(self.fps[index] for index in indices),
            self.geometry,
        )


@dataclass(frozen=True)
class AspectRatings:
    """Ratings of B clips in one aspect: `clip` [B], `patches` [B, t, h, w]; None where it is not rated by patch."""

    clip: Tensor
    patches: Tensor | None


@dataclass(frozen=True)
class Showing:
    """What a released reward model was shown of a clip: a score means nothing without it.

    frames: indices into the clip.  policy: how they were chosen and shown, and the question.  model: its name.
    """

    frames: tuple[int, ...]
    policy: str
    model: str


@dataclass(frozen=True)
class Rewards:
    """Rewards of B clips and of their patches, higher is better; float32 on the CPU, NaN in the rows that are refused.

    clip: [B].  patches: [B, t, h, w].  refusals: why a clip has no reward, None for each that has one.
    ratings: aspect, by the rewarder's own names, -> the ratings that the rewards are made of; may be empty.
    showings: what a released model was shown of each clip, None for a refused one; empty for other rewarders.
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
