"""What halovid asks of a judge: whoever can say how good a clip is and where it is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

LOWEST, HIGHEST = 1.0, 5.0  # every rating, of clips and patches, is on this scale; higher is better
DEFECT_RATING = 4.2  # a patch rated below this is defective: the embedded world's threshold on this scale


@dataclass(frozen=True)
class Judgement:
    """Ratings of one clip: aspect -> rating of the clip; aspect -> ratings of its patches, [t, h, w]."""

    clip: dict[str, float]
    patches: dict[str, Tensor]


@dataclass(frozen=True)
class Refusal:
    """A clip that could not be judged, and why."""

    reason: str


class Judge(Protocol):
    """Rates clips. `name` tells judge, version and settings: it goes into every label and the stage's fingerprint."""

    name: str

    def judge(self, video: Tensor, prompts: list[str], clip_ids: list[str]) -> list[Judgement | Refusal]:
        """One answer per clip of `video`, [B, 3, F, H, W] in [-1, 1]; the same clip always gets the same answer."""


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
