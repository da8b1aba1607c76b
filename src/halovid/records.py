"""Records that cross floors: prompts, requests to judges and their answers, the scale of ratings, measures."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from halovid.maths.grid import LatentGeometry, PatchGrid

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
    """A clip that could not be judged, and why; `again`: asking another time may help."""

    reason: str
    again: bool = False


Skip = Callable[[str, str, bool], None]  # is told of an item that fails, why, and whether another time may help


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

    video: [B, 3, F, H, W] in [-1, 1].  rows: of each clip at least its clip_id, prompt_id and prompt.
    geometry: how the model's autoencoder divides a clip.  grid: the patches.
    text_condition: prompt id -> the model's text condition, [L, D].
    """

    video: Tensor
    rows: Sequence[dict[str, Any]]
    geometry: LatentGeometry
    grid: PatchGrid
    text_condition: Callable[[str], Tensor]

    @property
    def prompt_ids(self) -> list[str]:
        """The prompt of each clip."""
        return [row["prompt_id"] for row in self.rows]
