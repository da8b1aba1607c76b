"""VideoFeedback, the data of VideoScore: clips rated 1..4 by five aspects.

FOLDER/data.json (.jsonl, .parquet)   one row per clip: id, images, "text prompt", "video link", a column per aspect,
                                      conversations, which hold prompt and ratings where those columns are missing
FOLDER/images/ID/*.jpg                its frames, at 8 frames per second; or
FOLDER/videos/ID.mp4                  the clip itself, which is what we write

Source: https://huggingface.co/datasets/TIGER-Lab/VideoFeedback. Ratings 1..4 are stretched to 1..5 and back.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from halovid.formats.base import Collection, Exported, RunData, SourceClip, copy_clips
from halovid.formats.sources import SourceProblem, find_table, is_inside, read_number, read_rows, resolve_inside
from halovid.store.files import write_json
from halovid.store.foreign import describe

ASPECTS = {  # VideoFeedback's column -> our aspect
    "visual quality": "visual_quality",
    "temporal consistency": "temporal_consistency",
    "dynamic degree": "dynamic_degree",
    "text-to-video alignment": "text_alignment",
    "factual consistency": "factual_consistency",
}
LOWEST, HIGHEST = 1.0, 4.0
FRAME_RATE = 8.0
_PROMPT = re.compile(r'text prompt is "(.*?)",? *(?:\n|$)', re.DOTALL)
_RATING = re.compile(r"^ *([a-z][a-z -]*?) *: *([0-9.]+) *$", re.MULTILINE)


def read(source: Path) -> Collection:
    """The clips with their ratings."""
    collection = Collection()
    root, table = find_table(source, (".json", ".jsonl", ".parquet"))
    for item, row in read_rows(table, ("id",), collection.skip):
        try:
            collection.add(read_clip(root, row))
        except SourceProblem as problem:
            collection.skip(f"{item} ({describe(row['id'])})", str(problem))
    return collection


def to_five_point(rating: float) -> float:
    """A rating on VideoFeedback's scale 1..4, stretched to our scale 1..5."""
    return 1 + (rating - LOWEST) * 4 / (HIGHEST - LOWEST)


def to_four_point(rating: float) -> float:
    """A rating on our scale 1..5, shrunk to 1..4 and rounded to six digits, so that whole ratings come back whole."""
    return round(LOWEST + (rating - 1) * (HIGHEST - LOWEST) / 4, 6)


def read_clip(root: Path, row: dict[str, Any]) -> SourceClip:
    """The clip that a row describes.

    Raises:
        SourceProblem: the row lacks an id, a prompt or files, or a rating is no number in 1..4.
    """
    name = row["id"]
    if not isinstance(name, str) or not name.strip() or "/" in name or "\\" in name:
        raise SourceProblem("its id is no name")
    question, answer = _conversation(row)
    prompt = row.get("text prompt")
    if prompt is None:
        quoted = _PROMPT.search(question)
        prompt = quoted[1] if quoted else None
    if not isinstance(prompt, str):
        raise SourceProblem("it has no prompt")
    ratings_in_answer = dict(_RATING.findall(answer))
    ratings = {}
    for column, aspect in ASPECTS.items():
        value = ratings_in_answer.get(column) if row.get(column) is None else row[column]
        if value not in (None, ""):
            ratings[aspect] = to_five_point(read_number(value, column, LOWEST, HIGHEST))
    files, fps = _find_files(root, name, row.get("images"))
    return SourceClip(name, prompt.strip(), files, fps, ratings)


def _conversation(row: dict[str, Any]) -> tuple[str, str]:
    """The question to the rater and the answer, from the row's conversations; empty texts where they are missing."""
    turns = row.get("conversations")
    texts = [turn.get("value") if isinstance(turn, dict) else None for turn in turns] if isinstance(turns, list) else []
    question, answer = ([text if isinstance(text, str) else "" for text in texts] + ["", ""])[:2]
    return question, answer


def _find_files(root: Path, name: str, images: Any) -> tuple[tuple[Path, ...], float | None]:
    """The clip's video file and None, or its frame files and their frame rate."""
    for video in (f"videos/{name}.mp4", f"{name}.mp4"):
        if is_inside(root, video):
            return (resolve_inside(root, video),), None
    if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
        raise SourceProblem(f"there is no videos/{name}.mp4, and the row names no frames as images")
    folders = (f"images/{name}", f"images/{images[0].split('_')[0]}", "images", name, ".")
    folder = next((path for path in folders if is_inside(root, f"{path}/{images[0]}")), folders[0])
    return tuple(resolve_inside(root, f"{folder}/{image}") for image in images), FRAME_RATE


def write(run: RunData, target: Path) -> Exported:
    """Writes data.json and videos/."""
    ratings, skipped, rows = run.need_ratings(), list[tuple[str, str]](), []
    for row in copy_clips(run.clips, target / "videos", skipped):
        rated = ratings.get(row["clip_id"], {})
        scores = {
            column: _whole_as_int(to_four_point(rated[aspect])) for column, aspect in ASPECTS.items() if aspect in rated
        }
        answer = "\n".join(f"{column}: {score}" for column, score in scores.items())
        rows.append(
            {
                "id": row["clip_id"],
                "images": [],
                "text prompt": row["prompt"],
                "video link": f"videos/{row['clip_id']}.mp4",
                **scores,
                "conversations": [
                    {"from": "human", "value": f'The text prompt is "{row["prompt"]}",\n'},
                    {"from": "gpt", "value": answer},
                ],
            }
        )
    write_json(target / "data.json", rows)
    return Exported("clips", len(rows), skipped)


def _whole_as_int(number: float) -> float | int:
    """A whole number as an int, as the published rows have it; any other number unchanged."""
    return int(number) if number == int(number) else number
