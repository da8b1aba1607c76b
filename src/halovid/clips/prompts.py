"""The prompts of a run: from a file, or captions of the embedded world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halovid.config.run import PromptsConfig
from halovid.records import Prompt, prompt_problem
from halovid.store.errors import InputError, shorten
from halovid.store.foreign import read_csv, read_json_lines, read_text
from halovid.store.lazy import load_named

_DRAW_CAPTIONS = "halovid.world.prompts:draw_captions"  # gives the prompts of a recipe that names no file


def load_prompts(config: PromptsConfig) -> tuple[list[Prompt], list[tuple[str, str]]]:
    """The usable prompts, and ("prompt N", reason) for each of the others.

    Raises:
        InputError: the file can't be read, or holds no usable prompt.
    """
    if config.file is None:
        return load_named(_DRAW_CAPTIONS)(config), []
    texts = _read_texts(config.file)[: config.count]
    prompts, refused = [], []
    for index, text in enumerate(texts):
        problem = prompt_problem(text)
        if problem:
            refused.append((f"prompt {index}", problem))
        else:
            prompts.append(Prompt(f"p{index:05d}", text.strip()))
    if not prompts:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused[:3])
        raise InputError(
            f"{config.file} holds no usable prompt ({reasons or 'it is empty'}); put one prompt on each line"
        )
    return prompts, refused


def _read_texts(path: Path) -> list[Any]:
    """The prompts of a .txt, .jsonl or .csv file without blank lines; those of JSON Lines can be of any type."""
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return [_prompt_of(path, name, row) for name, row in read_json_lines(path)]
    if suffix == ".csv":
        header, rows = read_csv(path)
        if "prompt" not in header:
            raise InputError(f"{path} needs a column `prompt`; it has {shorten(', '.join(header)) or 'none'}")
        column = header.index("prompt")
        return [cells[column] if column < len(cells) else None for _, cells in rows]
    if suffix in (".json", ".parquet"):
        raise InputError(f"the prompt file {path} is {suffix}; give it as .jsonl, .csv or one prompt a line in .txt")
    return [line for line in read_text(path).split("\n") if line.strip()]


def _prompt_of(path: Path, name: str, row: Any) -> Any:
    """The value of `prompt` in a row of JSON Lines, of whatever type it is; InputError if the row has none."""
    if not isinstance(row, dict) or "prompt" not in row:
        raise InputError(f'{path}, {name} needs a `prompt`: it must look like {{"prompt": "a red ball"}}')
    return row["prompt"]
