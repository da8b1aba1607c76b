"""Records that cross floors: a prompt, a request to a judge and its answer, and the scale of ratings."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

from torch import Tensor

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
