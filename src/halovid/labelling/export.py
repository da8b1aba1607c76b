"""Labels of people as the product's tables: what a judge gives, and what only people give."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from halovid.labelling.answers import ASPECTS, SOUND, Comparison, Ratings
from halovid.labelling.database import Answer, Settings
from halovid.store.tables import LABELS, PREFERENCES, VOTES, rows_to_table

Row = dict[str, Any]
Named = tuple[str, Ratings]  # an annotator and what they say
Answers = Iterable[tuple[str, Answer]]


def merged_labels(answers: Answers, settings: Settings) -> pa.Table:
    """Rows of tables.LABELS, one per clip and aspect: the mean over those who labelled it."""
    rows = []
    for clip_id, named in _ratings(answers).items():
        for aspect in ASPECTS:
            patches = [_patch_scores(ratings, aspect, settings) for _, ratings in named]
            row = {
                "clip_id": clip_id,
                "aspect": aspect,
                "score": float(np.mean([ratings.scores[aspect] for _, ratings in named])),
                "patch_scores": np.mean(patches, 0).tolist() if aspect in settings.patch_aspects else None,
            }
            rows.append(row | {"judge": "people-1"})
    return rows_to_table(rows, LABELS)


def own_labels(answers: Answers, settings: Settings) -> pa.Table:
    """Rows of tables.LABELS, one per clip, aspect and annotator, who stands as the judge."""
    rows = []
    for clip_id, named in _ratings(answers).items():
        for name, ratings in named:
            for aspect in ASPECTS:
                patches = _patch_scores(ratings, aspect, settings) if aspect in settings.patch_aspects else None
                score = float(ratings.scores[aspect])
                rows.append(
                    {"clip_id": clip_id, "aspect": aspect, "score": score, "patch_scores": patches, "judge": name}
                )
    return rows_to_table(rows, LABELS)


def votes(answers: Answers, settings: Settings) -> pa.Table:
    """Rows of tables.VOTES: every rating of a clip and every mark with its kind, by annotator."""
    rows = []
    for clip_id, named in _ratings(answers).items():
        for name, ratings in named:
            own: Row = {"clip_id": clip_id, "voter": name, "reason": ""}
            rows += [
                own | {"aspect": aspect, "patch": None, "score": float(score), "kind": ""}
                for aspect, score in sorted(ratings.scores.items())
            ]
            rows += [
                own | {"aspect": mark.aspect, "patch": mark.patch, "score": float(mark.score), "kind": mark.kind}
                for mark in sorted(ratings.marks, key=lambda mark: (mark.aspect, mark.patch))
            ]
    return rows_to_table(rows, VOTES)


def preferences(answers: Answers, settings: Settings) -> pa.Table:
    """Rows of tables.PREFERENCES, one per compared pair and annotator."""
    rows = []
    for name, answer in answers:
        if answer.state != "done" or not answer.second:
            continue
        comparison = Comparison.model_validate_json(json.dumps(answer.content))
        patches = np.zeros(settings.grid.num_patches)
        for entry in comparison.patches:
            patches[entry.patch] = entry.preference
        assert comparison.preference is not None, "a finished comparison says which clip is better"
        row: Row = {"prompt_id": answer.prompt_id, "first": answer.first, "second": answer.second}
        row |= {"preference": float(comparison.preference), "patch_preferences": patches.tolist(), "judge": name}
        rows.append(row)
    return rows_to_table(rows, PREFERENCES)


What = Literal["labels", "annotators", "votes", "preferences"]
EXPORTS: dict[What, Callable[[Answers, Settings], pa.Table]] = {
    "labels": merged_labels,
    "annotators": own_labels,
    "votes": votes,
    "preferences": preferences,
}


def _ratings(answers: Answers) -> dict[str, list[Named]]:
    """Clip -> what those say who have finished it, in the order of their names."""
    found: dict[str, list[Named]] = {}
    for name, answer in answers:
        if answer.state == "done" and not answer.second:
            ratings = Ratings.model_validate_json(json.dumps(answer.content))
            found.setdefault(answer.first, []).append((name, ratings))
    return found


def _patch_scores(ratings: Ratings, aspect: str, settings: Settings) -> list[float]:
    """The rating of every patch in an aspect: that of its mark, or sound."""
    scores = [SOUND] * settings.grid.num_patches
    for mark in ratings.marks:
        if mark.aspect == aspect:
            scores[mark.patch] = float(mark.score)
    return scores
