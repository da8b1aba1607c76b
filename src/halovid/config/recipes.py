"""Reads recipes: YAML with overrides becomes a checked configuration, or one sentence about every mistake."""

from __future__ import annotations

import copy
import difflib
import os
import re
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from halovid.config.run import RunConfig
from halovid.config.sections import Section, section_fields
from halovid.store.errors import InputError

S = TypeVar("S", bound=Section)
_SECRETIVE = {"vlm", "server", "base_url", "key_variable"}  # where a key may stand by mistake: values are not repeated
_WITH_USER = re.compile(r"://[^/\s]*@")  # a URL with a user, and likely a password
_FILES = (
    ("generate", "prompts", "file"),
    ("evaluate", "prompts", "file"),
    ("judge", "labels"),
    ("judge", "questions"),
    ("pair", "preferences"),
    ("score", "server", "question"),
)
_FOLDERS = (("judge", "vlm", "answers"), ("score", "server", "answers"), ("reward", "start"), ("good", "source"))
# settings of past recipes that became something else -> what to write now
_REPLACED = {
    "evaluate.truth": "name 'inspector' in evaluate.instruments for the embedded world's truth, or leave it out",
    "evaluate.critic": "name 'critic' in evaluate.instruments for the embedded world's critic, or leave it out",
    "evaluate.judge": "name 'judge' in evaluate.instruments to have the judge rate the clips, or leave it out",
    "evaluate.reward": "name 'reward' in evaluate.instruments to have the reward model rate them, or leave it out",
}
_PACKAGED = "world"  # stands for something in the package where a file or folder could be named


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """The configuration in a YAML file with `section.key=value` overrides applied.

    Relative files are taken relative to the recipe.

    Raises:
        InputError: the file can't be read, or a key or value is not allowed; every problem is named. Or a file that
            the recipe names is a folder.
    """
    raw = read_yaml(path)
    for override in overrides:
        _apply_override(raw, override)
    for place in (*_FILES, *_FOLDERS):
        *parents, name = place
        section: Any = raw
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if isinstance(section, dict) and isinstance(section.get(name), str) and section[name] != _PACKAGED:
            section[name] = str(path.parent / section[name])
            if place in _FILES and os.path.isdir(section[name]):
                raise InputError(f"{'.'.join(place)}: {section[name]} is a folder; name a file")
    return make_config(raw)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: the file can't be read or holds something else.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise InputError(f"can't read the recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"the recipe {path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise InputError(f"the recipe {path} must be a mapping of sections, found {type(raw).__name__}")
    return raw


def make_config(raw: dict[str, Any]) -> RunConfig:
    """The validated configuration of a nested dict; `validated` tells what it raises."""
    return validated(RunConfig, raw)


def validated(section: type[S], raw: dict[str, Any]) -> S:
    """A section built from a nested dict.

    Raises:
        InputError: names every unknown key with the nearest known one, and every value that is not allowed.
    """
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        raise InputError("; ".join(_explain(section, problem) for problem in error.errors())) from error


def changed(config: RunConfig, *changes: dict[str, Any]) -> RunConfig:
    """The configuration with nested changes applied, the later ones last.

    Raises:
        InputError: see `validated`.
    """
    raw = config.model_dump(mode="json", exclude_unset=True)
    for change in changes:
        _merge(raw, change)
    return make_config(raw)


def _merge(raw: dict[str, Any], change: dict[str, Any]) -> None:
    """Puts the values of `change` into `raw`, mappings into mappings."""
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(raw.get(key), dict):
            _merge(raw[key], value)
        else:
            raw[key] = copy.deepcopy(value)


def _apply_override(raw: dict[str, Any], override: str) -> None:
    """Sets `a.b.c=value` in nested dicts; the value is read as YAML."""
    dotted, sign, text = override.partition("=")
    if not sign or not dotted:
        raise InputError(f"override {override!r} must look like section.key=value")
    *parents, last = dotted.split(".")
    secret = not _SECRETIVE.isdisjoint((*parents, last))
    shown = repr(dotted if secret else override)
    place = raw
    for parent in parents:
        if place.get(parent) is None:
            place[parent] = {}
        place = place[parent]
        if not isinstance(place, dict):
            raise InputError(f"override {shown}: {parent!r} is a value, not a section")
    try:
        place[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        why = "" if secret else f": {error}"
        raise InputError(f"override {shown}: the value is not valid YAML{why}") from error


def _explain(root: type[Section], problem: Any) -> str:
    """One sentence for one pydantic problem."""
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        if place in _REPLACED:
            return f"{place!r} is no setting any more: {_REPLACED[place]}"
        known = _known_keys(root, problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.0)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"unknown key {place!r}: {hint}allowed here: {', '.join(known)}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{place or 'recipe'}: got {_shown(problem['loc'], problem['input'])}. {message}"


def _shown(place: tuple[str | int, ...], value: Any) -> str:
    """A value as an error repeats it: not where a key may stand by mistake."""
    may_be_key = not _SECRETIVE.isdisjoint(place) and not isinstance(value, int | float)
    return "a value that is not shown" if may_be_key or _WITH_USER.search(repr(value)) else repr(value)


def _known_keys(root: type[Section], path: tuple[str | int, ...]) -> list[str]:
    """The keys allowed in the section at `path`."""
    section: Any = root
    for part in path:
        section = get_args(section)[0] if isinstance(part, int) else section_fields(section)[part]
    return list(section_fields(section))
