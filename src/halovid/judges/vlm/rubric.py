"""The wording of questions: templates, the identity of all they say, and prompts that stay quotations."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from halovid.judges.vlm.schema import KINDS

_FOLDER = "templates/vlm"
_NAMES = ("rubric", "clip", "patches")
_MEANING = {
    "visual_quality": "clear, undistorted, well-formed objects, bodies and surfaces",
    "temporal_consistency": "objects, backgrounds, colours and light stay what they are from frame to frame",
    "dynamic_degree": "how much really moves, as far as the description asks for movement",
    "text_alignment": "what is shown is what the description says: objects, numbers, attributes, actions",
    "factual_consistency": "what is shown agrees with common sense, physics and facts",
}


def render_rubric(aspects: Sequence[str]) -> str:
    """The rules of rating by these aspects: the system message of a question."""
    return _template("rubric").render(aspects=aspects, meaning=_MEANING, kinds=KINDS)


def render_question(name: str, prompt: str, **values: Any) -> str:
    """The text of a question about a clip of this prompt: `name` is clip or patches."""
    return _template(name).render(prompt=quote(prompt), **values)


@cache
def rubric_version() -> str:
    """Identity of all that the templates and the lists in them say: the first 12 digits of a SHA-256."""
    texts = [(resources.files("halovid") / _FOLDER / f"{name}.md.j2").read_text(encoding="utf-8") for name in _NAMES]
    return hashlib.sha256(json.dumps([texts, _MEANING, KINDS]).encode()).hexdigest()[:12]


def quote(text: str) -> str:
    """User text as a JSON string that nothing in the text can end.

    Everything that could look like structure is escaped: quotes, backslashes, angle brackets, ampersands, back quotes,
    line and paragraph separators, control and invisible format characters.
    """
    return "".join(_escape(char) for char in json.dumps(text, ensure_ascii=False))


def _escape(char: str) -> str:
    if char not in "<>&`" and unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return char
    utf16 = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(utf16[i : i + 2], 'big'):04x}" for i in range(0, len(utf16), 2))


@cache
def _template(name: str) -> Template:
    loader = PackageLoader("halovid", _FOLDER)
    return Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True).get_template(f"{name}.md.j2")
