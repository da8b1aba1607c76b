"""Reads recipes: YAML with overrides becomes a checked configuration, or an error that names every mistake.

A relative path starts from where it is written: in a recipe or a study from that file's folder, on the command line,
as in `--set`, from the current folder.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from halovid.config.packaged import PACKAGED_SIZES
from halovid.config.plain_yaml import MAX_CHARACTERS, MAX_DEPTH, parse_yaml
from halovid.config.renamed import REPLACED_SETTINGS, renamed_within
from halovid.config.run import RunConfig
from halovid.config.sections import Section, locate, section_fields
from halovid.store.errors import InputError, shorten
from halovid.store.foreign import read_text

S = TypeVar("S", bound=Section)
_MAY_HOLD_KEY = {"vlm", "server", "base_url", "key_variable"}  # where a key may stand by mistake: values are not shown
_WITH_USER = re.compile(r"://[^/\s]*@")  # a URL with a user, and likely a password
_NO_DEFAULT = "default_factory_not_called"  # pydantic: a wrong value of another setting left the default unknown
_SETTING_NAME = re.compile(r"[a-z][a-z_]{0,40}")
_MOST_PROBLEMS = 10  # that one message lists
_FILES = (
    "generate.prompts.file",
    "evaluate.prompts.file",
    "judge.labels",
    "judge.questions",
    "pair.preferences",
    "score.server.question",
)
_FOLDERS = ("judge.vlm.answers", "score.server.answers", "reward.start", "good.source")
_FOLDERS_OR_IDS = ("generator.model", "reward.model", "score.released")  # a folder if there is one, else a hub id


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """The configuration in a YAML file with `section.key=value` overrides applied.

    Relative paths in the file start from its folder, those in overrides from the current folder.

    Raises:
        InputError: the file can't be read, or a key or value is not allowed; or a folder is
            named where a file is needed. The message names every problem.
    """
    raw = read_yaml(path)
    anchor_paths(raw, path.parent)
    for override in overrides:
        _apply_override(raw, override)
    for setting in _FILES:
        file = _get(raw, setting)
        if isinstance(file, str) and os.path.isdir(file):
            raise InputError(f"{setting}: {shorten(file)} is a folder; name a file")
    return make_config(raw)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: the file can't be read or holds something else.
    """
    text = read_text(path, "the recipe ", 4 * MAX_CHARACTERS)
    raw = parse_yaml(text, f"the recipe {path}")
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise InputError(f"the recipe {path} must be a mapping of sections, found {type(raw).__name__}")
    return raw


def anchor_paths(raw: dict[str, Any], folder: Path) -> None:
    """Makes the relative paths in a recipe's nested settings start from `folder`, in place."""
    for setting in (*_FILES, *_FOLDERS, *_FOLDERS_OR_IDS):
        *_, name = setting.split(".")
        section = _get(raw, setting.removesuffix(f".{name}"))
        if isinstance(section, dict) and name in section:
            section[name] = anchored(setting, section[name], folder)


def anchored(setting: str, value: Any, folder: Path) -> Any:
    """The value of a setting: a relative path starts from `folder`, any other value stays as it is.

    What may be a folder or a hub id is taken for a path if there is such a folder. A name of a packaged generator, or
    of the good clips of its world, is no path.
    """
    if not isinstance(value, str) or value in PACKAGED_SIZES or setting not in (*_FILES, *_FOLDERS, *_FOLDERS_OR_IDS):
        return value
    path = str(folder / value)
    return path if setting not in _FOLDERS_OR_IDS or os.path.isdir(path) else value


def _get(raw: Any, dotted: str) -> Any:
    """The value at a.b.c in nested dicts, None where there is none."""
    for part in dotted.split("."):
        raw = raw.get(part) if isinstance(raw, dict) else None
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
        every = error.errors(include_url=False, include_context=False)
        problems = [problem for problem in every if problem["type"] != _NO_DEFAULT]
        sentences = [_explain(section, problem) for problem in problems[:_MOST_PROBLEMS]]
        more = [f"and {len(problems) - len(sentences)} more"] if len(problems) > len(sentences) else []
        raise InputError("; ".join(sentences + more)) from error


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
    """Puts the values of `change` into `raw`: mappings are merged, unless they choose different things by `name`."""
    for key, value in change.items():
        old = raw.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and not _is_other_choice(old, value):
            _merge(old, value)
        else:
            raw[key] = copy.deepcopy(value)


def _is_other_choice(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether two mappings choose different things by `name`, so that settings of one have no meaning in the other."""
    return "name" in old and new.get("name") not in (None, old["name"])


def _apply_override(raw: dict[str, Any], override: str) -> None:
    """Sets `a.b.c=value` in nested dicts; the value is read as YAML."""
    dotted, sign, text = override.partition("=")
    parts = dotted.split(".")
    if not sign or not all(parts) or len(parts) > MAX_DEPTH:
        shown = f" {dotted!r}" if all(_SETTING_NAME.fullmatch(part) for part in parts[:MAX_DEPTH]) else ""
        raise InputError(f"override{shown}: --set takes section.key=value, as align.steps=800")
    *parents, last = parts
    shown = repr(shorten(dotted if not _MAY_HOLD_KEY.isdisjoint(parts) or _WITH_USER.search(text) else override))
    section = raw
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise InputError(f"override {shown}: {shorten(parent)!r} is a value, not a section")
    section[last] = parse_yaml(text, f"override {shown}: the value")


def _explain(root: type[Section], problem: Any) -> str:
    """One sentence for one pydantic problem."""
    keys, _ = locate(root, problem["loc"])
    setting = ".".join(keys)
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        _, section = locate(root, problem["loc"][:-1])
        return _explain_unknown(setting, problem, list(section_fields(section)))
    message = problem["msg"].removeprefix("Value error, ")
    return f"{shorten(setting) or 'recipe'}: got {_shown(problem['loc'], problem['input'])}. {message}"


def _explain_unknown(setting: str, problem: Any, known: list[str]) -> str:
    """One sentence for a key that is not allowed: its new name, or the nearest known one."""
    renamed = renamed_within(setting, problem["input"])
    if renamed:
        names = ", ".join(f"{old!r} is now called {new!r}" for old, new in renamed.items())
        return f"{names}: rename it; its meaning is the same"
    if setting in REPLACED_SETTINGS:
        return f"{setting!r} is no setting any more: {REPLACED_SETTINGS[setting]}"
    loc, name = problem["loc"], str(problem["loc"][-1])
    if not _MAY_HOLD_KEY.isdisjoint(loc) and not _SETTING_NAME.fullmatch(
        name
    ):  # a key that stands where its name belongs
        setting = setting.removesuffix(name) + "(not shown)"
    near = difflib.get_close_matches(shorten(name), known, n=1, cutoff=0.0)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown key {shorten(setting)!r}: {hint}allowed here: {', '.join(known)}"


def _shown(loc: tuple[str | int, ...], value: Any) -> str:
    """A value as an error shows it: shortened, and not at all where a key may stand by mistake."""
    shown = repr(value)
    may_be_key = not _MAY_HOLD_KEY.isdisjoint(loc) and not isinstance(value, int | float)
    return "a value that is not shown" if may_be_key or _WITH_USER.search(shown) else shorten(shown)
