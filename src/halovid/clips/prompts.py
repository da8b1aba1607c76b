"""Prompts: from a file of the user, or captions of the embedded world."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from halovid.config.run import PromptsConfig
from halovid.records import Prompt, prompt_problem
from halovid.store.errors import InputError
from halovid.store.lazy import load_named

_DRAWN = "halovid.world.prompts:draw_captions"  # the prompts of a recipe that names no file


def load_prompts(config: PromptsConfig) -> tuple[list[Prompt], list[tuple[str, str]]]:
    """The usable prompts, and (name, reason) of those that are not.

    Raises:
        InputError: the file can't be read, or holds no usable prompt.
    """
    if config.file is None:
        return load_named(_DRAWN)(config), []
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
    """The prompts of a .txt, .jsonl or .csv file, blank lines left out; a row may hold something else than a text."""
    try:
        content = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".jsonl":  # split at newlines only: JSON texts may hold other line separators
            return [json.loads(line)["prompt"] for line in content.split("\n") if line.strip()]
        if path.suffix == ".csv":
            csv.field_size_limit(len(content) + 1)  # a cell that is too long is refused by name, with the others
            return [row["prompt"] for row in csv.DictReader(io.StringIO(content, newline=""))]
    except OSError as error:
        raise InputError(f"can't read the prompt file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the prompt file {path} is not UTF-8 text ({error})") from error
    except (json.JSONDecodeError, csv.Error, KeyError, TypeError) as error:
        raise InputError(f"every row of {path} needs a `prompt` ({error!r})") from error
    return [line for line in content.split("\n") if line.strip()]
