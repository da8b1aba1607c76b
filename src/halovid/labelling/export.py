"""Finished answers as tables: labels as judges give them, and votes and preferences."""

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
NamedRatings = tuple[str, Ratings]  # an annotator's name and their ratings
Answers = Iterable[tuple[str, Answer]]  # annotators' names and answers


def merged_labels(answers: Answers, settings: Settings) -> pa.Table:
    """Rows of tables.LABELS, one per clip and aspect: the mean over the annotators who finished the clip."""
    rows = []
    for clip_id, named_ratings in _ratings_by_clip(answers).items():
        for aspect in ASPECTS:
            patches = [_patch_scores(ratings, aspect, settings) for _, ratings in named_ratings]
            row = {
                "clip_id": clip_id,
                "aspect": aspect,
                "score": float(np.mean([ratings.scores[aspect] for _, ratings in named_ratings])),
                "patch_scores": np.mean(patches, 0).tolist() if aspect in settings.patch_aspects else None,
            }
            rows.append(row | {"judge": "people-1"})
    return rows_to_table(rows, LABELS)


def labels_by_annotator(answers: Answers, settings: Settings) -> pa.Table:
    """Rows of tables.LABELS, one per clip, aspect and annotator; the annotator is named as the judge."""
    rows = []
    for clip_id, named_ratings in _ratings_by_clip(answers).items():
        for name, ratings in named_ratings:
            for aspect in ASPECTS:
                patches = _patch_scores(ratings, aspect, settings) if aspect in settings.patch_aspects else None
                score = float(ratings.scores[aspect])
                rows.append(
                    {"clip_id": clip_id, "aspect": aspect, "score": score, "patch_scores": patches, "judge": name}
                )
    return rows_to_table(rows, LABELS)


def votes(answers: Answers, settings: Settings) -> pa.Table:
    """Rows of tables.VOTES, one per rating of a clip and per mark of a patch, with the annotator as the voter."""
    rows = []
    for clip_id, named_ratings in _ratings_by_clip(answers).items():
        for name, ratings in named_ratings:
            vote: Row = {"clip_id": clip_id, "voter": name, "reason": ""}
            rows += [
                vote | {"aspect": aspect, "patch": None, "score": float(score), "kind": ""}
                for aspect, score in sorted(ratings.scores.items())
            ]
            rows += [
                vote | {"aspect": mark.aspect, "patch": mark.patch, "score": float(mark.score), "kind": mark.kind}
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
    "annotators": labels_by_annotator,
    "votes": votes,
    "preferences": preferences,
}


def _ratings_by_clip(answers: Answers) -> dict[str, list[NamedRatings]]:
    """Clip id -> (annotator, ratings) of everyone who finished the clip, in the order of `answers`."""
    by_clip: dict[str, list[NamedRatings]] = {}
    for name, answer in answers:
        if answer.state == "done" and not answer.second:
            ratings = Ratings.model_validate_json(json.dumps(answer.content))
            by_clip.setdefault(answer.first, []).append((name, ratings))
    return by_clip


def _patch_scores(ratings: Ratings, aspect: str, settings: Settings) -> list[float]:
    """The rating of every patch in an aspect: that of its mark, or `SOUND` without one."""
    scores = [SOUND] * settings.grid.num_patches
    for mark in ratings.marks:
        if mark.aspect == aspect:
            scores[mark.patch] = float(mark.score)
    return scores
