"""VideoFeedback, the data of VideoScore: clips rated 1..4 by five aspects.

FOLDER/data.json (.jsonl, .parquet)   one row per clip: id, images, "text prompt", "video link", a column per aspect,
                                      conversations, which tell prompt and ratings where the columns are missing
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

ASPECTS = {
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
    """Clips with their ratings."""
    found = Collection()
    root, table = find_table(source, (".json", ".jsonl", ".parquet"))
    for item, row in read_rows(table, ("id",), found.skip):
        try:
            found.add(read_clip(root, row))
        except SourceProblem as problem:
            found.skip(f"{item} ({describe(row['id'])})", str(problem))
    return found


def to_ours(rating: float) -> float:
    """1..4 -> 1..5."""
    return 1 + (rating - LOWEST) * 4 / (HIGHEST - LOWEST)


def to_theirs(rating: float) -> float:
    """1..5 -> 1..4, to six digits: whole ratings come back whole."""
    return round(LOWEST + (rating - 1) * (HIGHEST - LOWEST) / 4, 6)


def read_clip(root: Path, row: dict[str, Any]) -> SourceClip:
    """A clip of a row."""
    name = row["id"]
    if not isinstance(name, str) or not name.strip() or "/" in name or "\\" in name:
        raise SourceProblem("its id is no name")
    asked, answered = _conversation(row)
    prompt = row.get("text prompt")
    if prompt is None:
        told = _PROMPT.search(asked)
        prompt = told[1] if told else None
    if not isinstance(prompt, str):
        raise SourceProblem("it has no prompt")
    told_ratings = dict(_RATING.findall(answered))
    ratings = {}
    for theirs, ours in ASPECTS.items():
        value = told_ratings.get(theirs) if row.get(theirs) is None else row[theirs]
        if value not in (None, ""):
            ratings[ours] = to_ours(read_number(value, theirs, LOWEST, HIGHEST))
    files, fps = _find_files(root, name, row.get("images"))
    return SourceClip(name, prompt.strip(), files, fps, ratings)


def _conversation(row: dict[str, Any]) -> tuple[str, str]:
    """What the rater was asked and what the answer was; empty where there is none."""
    turns = row.get("conversations")
    texts = [turn.get("value") if isinstance(turn, dict) else None for turn in turns] if isinstance(turns, list) else []
    asked, answered = ([text if isinstance(text, str) else "" for text in texts] + ["", ""])[:2]
    return asked, answered


def _find_files(root: Path, name: str, images: Any) -> tuple[tuple[Path, ...], float | None]:
    """The clip's video, or its frames and their rate."""
    for place in (f"videos/{name}.mp4", f"{name}.mp4"):
        if is_inside(root, place):
            return (resolve_inside(root, place),), None
    if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
        raise SourceProblem(f"there is no videos/{name}.mp4, and the row names no frames as images")
    folders = (f"images/{name}", f"images/{images[0].split('_')[0]}", "images", name, ".")
    folder = next((own for own in folders if is_inside(root, f"{own}/{images[0]}")), folders[0])
    return tuple(resolve_inside(root, f"{folder}/{image}") for image in images), FRAME_RATE


def write(run: RunData, target: Path) -> Exported:
    """data.json and videos/."""
    ratings, skipped, rows = run.need_ratings(), list[tuple[str, str]](), []
    for row in copy_clips(run.clips, target / "videos", skipped):
        own = ratings.get(row["clip_id"], {})
        scores = {theirs: _tidy(to_theirs(own[ours])) for theirs, ours in ASPECTS.items() if ours in own}
        answer = "\n".join(f"{aspect}: {score}" for aspect, score in scores.items())
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


def _tidy(number: float) -> float | int:
    """Whole numbers as such, as the published rows have them."""
    return int(number) if number == int(number) else number
