"""The one place where text becomes settings: plain YAML values, each key once, within bounds.

Recipes, studies and every `--set` are read here. Values are those of YAML 1.2's core schema: texts, whole and decimal
numbers, true, false, null, lists and mappings. What looks like a date is text, since no setting is a date.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import yaml

from halovid.store.errors import InputError

MAX_CHARACTERS = 100_000  # of a file; the largest study has 3,000
MAX_DEPTH = 20
MAX_VALUES = 20_000  # counted with the contents of aliases, which can multiply
MAX_DIGITS = 25  # of a whole number; no setting takes more
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None} | {
    word: value for name, value in (("true", True), ("false", False)) for word in (name, name.title(), name.upper())
}
_WHOLE = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_DECIMAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LIMIT = re.compile(
    r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)  # read, since every setting refuses them with a better message
_BASES = {"0o": 8, "0x": 16}
_QUOTED_NAME = re.compile(r"'[\w!.-]{3,}'")  # the name of an alias or a tag, which PyYAML's messages repeat
_PLAIN_KEY = re.compile(r"[a-z][a-z_]{0,30}")


def parse_yaml(text: str, subject: str) -> Any:
    """The value that a YAML text holds: None, bool, int, float, str, and lists and dicts with text keys of these.

    Args:
        subject: what the text is, as the start of a message: "the recipe r.yaml".

    Raises:
        InputError: the text is not valid YAML, is too large or too deep, has a key twice, a tag, or a control
            character. The message tells line and column and repeats nothing of the text, which may hold a key.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{subject} has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read")
    try:
        loader = _PlainLoader(text)
        node = loader.get_single_node()
        return None if node is None else loader.plain_value(node)
    except _RefusedError as error:
        raise InputError(f"{subject}{_position(error.mark)}: {error.reason}") from None
    except yaml.MarkedYAMLError as error:
        problem = _QUOTED_NAME.sub("...", str(error.problem))
        raise InputError(f"{subject} is not valid YAML{_position(error.problem_mark)}: {problem}") from None
    except yaml.reader.ReaderError as error:
        character = f"U+{error.character:04X}" if isinstance(error.character, int) else "a sign that is none"
        raise InputError(f"{subject} is not valid YAML: it holds {character}, which is no text") from None
    except (yaml.YAMLError, ValueError, OverflowError, LookupError, RecursionError) as error:
        # raised by PyYAML's scanner for bad numbers in directives and escape sequences
        raise InputError(f"{subject} is not valid YAML ({type(error).__name__})") from None


def _position(mark: Any) -> str:
    return "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"


class _RefusedError(Exception):
    """The text is valid YAML but no plain settings: the reason, and its position."""

    def __init__(self, reason: str, mark: Any) -> None:
        super().__init__(reason)
        self.reason, self.mark = reason, mark


class _PlainLoader(yaml.SafeLoader):
    """Composes a text's tree without tags and to a bounded depth; turns it into a bounded number of plain values."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  # texts stay texts until `plain_value` reads them

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node of the tree, as in PyYAML."""
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise _RefusedError("tags such as !!int are not read; write the value as it is", event.start_mark)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _RefusedError(f"brackets or sections are nested more than {MAX_DEPTH} deep", event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def plain_value(self, node: yaml.Node, depth: int = 1) -> Any:
        """The value of a node. An alias is read as a copy of what it refers to, so cycles end at a bound."""
        self._values += 1
        if depth > MAX_DEPTH or self._values > MAX_VALUES:
            raise _RefusedError(
                f"it holds more than {MAX_VALUES:,} values or {MAX_DEPTH} levels, aliases filled in", node.start_mark
            )
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain_value(item, depth + 1) for item in node.value]
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _RefusedError("a key must be a word, not a list or mapping", key_node.start_mark)
            key = _text(key_node)
            if key in mapping:
                named = f"the key {key!r}" if _PLAIN_KEY.fullmatch(key) else "a key"
                raise _RefusedError(f"{named} is there twice; leave one of them out", key_node.start_mark)
            mapping[key] = self.plain_value(value_node, depth + 1)
        return mapping


def _scalar(node: yaml.ScalarNode) -> Any:
    """The value of a scalar: text if it is quoted; else the number, true, false or null that it looks like, or text."""
    text = _text(node)
    if node.style is not None:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _LIMIT.fullmatch(text):
        return float(text.replace(".", ""))
    if _WHOLE.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise _RefusedError(f"a number of {len(text)} digits; a text of digits needs quotes", node.start_mark)
        return int(text, _BASES.get(text[:2], 10))
    return float(text) if _DECIMAL.fullmatch(text) else text


def _text(node: yaml.ScalarNode) -> str:
    """The text of a scalar. Control characters are refused: they would reach terminals and file names."""
    for character in node.value:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n\r":
            raise _RefusedError(f"it holds the control character U+{ord(character):04X}", node.start_mark)
    return str(node.value)
