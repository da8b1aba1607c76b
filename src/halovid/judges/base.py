"""What halovid asks of a judge: whoever can say how good a clip is and where it is not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

from torch import Tensor

from halovid.grid import LatentGeometry

LOWEST, HIGHEST = 1.0, 5.0  # every rating, of clips and patches, is on this scale; higher is better
DEFECT_RATING = 4.2  # a patch rated below this is defective: the embedded world's threshold on this scale


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
    """Ratings of one clip: aspect -> rating of the clip; aspect -> ratings of its patches, [t, h, w].

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


class Judge(Protocol):
    """Rates clips. `name` tells judge, version and settings: it goes into every label and the stage's fingerprint."""

    name: str

    def judge(
        self, video: Tensor, prompts: list[str], clip_ids: list[str], geometry: LatentGeometry
    ) -> list[Judgement | Refusal]:
        """One answer per clip of `video`, [B, 3, F, H, W] in [-1, 1]; the same clip always gets the same answer.

        `geometry` tells which frames lie in which patches.
        """


def label_rows(clip_id: str, answer: Judgement, judge: str) -> list[dict[str, Any]]:
    """Rows of tables.LABELS: one per aspect of a clip; an aspect not rated by patch has no patch scores."""
    return [
        {
            "clip_id": clip_id,
            "aspect": aspect,
            "score": score,
            "patch_scores": answer.patches[aspect].flatten().tolist() if aspect in answer.patches else None,
            "judge": judge,
        }
        for aspect, score in answer.clip.items()
    ]


def vote_rows(clip_id: str, answer: Judgement) -> list[dict[str, Any]]:
    """Rows of tables.VOTES: one per opinion that went into the ratings of a clip."""
    return [{"clip_id": clip_id} | asdict(vote) for vote in answer.votes]
