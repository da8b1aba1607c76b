"""Text becomes settings in one place: plain values, each key once, within bounds."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from halovid.config.plain_yaml import MAX_CHARACTERS, parse_yaml
from halovid.store.errors import InputError

SECRET = "sk-4f9dNeverShowThis"
texts = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\N{BYTE ORDER MARK}"), max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(plain)
def test_plain_values_come_back(value: Any) -> None:
    written = yaml.safe_dump(value, allow_unicode=True)
    assert parse_yaml(written, "it") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("no", "no"), ("on", "on"), ("1:30", "1:30"), ("2001-01-01", "2001-01-01"), ("2001-99-99", "2001-99-99")),
        *(("0x_", "0x_"), ("1_000", "1_000"), ("010", 10), ("0o17", 15), ("0xff", 255), ("1e-3", 0.001), ("-.5", -0.5)),
        *(
            ("~", None),
            ("Null", None),
            ("", None),
            ("TRUE", True),
            ("False", False),
            ("'1'", "1"),
            ("-.inf", -float("inf")),
        ),
        ("{a: &x [1], b: *x}", {"a": [1], "b": [1]}),
        ("{1: a, null: b}", {"1": "a", "null": "b"}),
    ],
)
def test_words_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    assert parse_yaml(text, "it") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' is there twice"),
        (f"{SECRET}: 1\n{SECRET}: 2", "a key is there twice"),
        ("a: !!int x", "tags such as !!int are not read"),
        (f"a: !{SECRET} x", "tags"),
        ("[" * 2000, "nested more than 20 deep"),
        ("- " * 50_000, "nested more than 20 deep"),
        ("&a [*a]", "20 levels"),
        (
            "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)),
            "20,000 values",
        ),
        ("9" * 5000, "a number of 5000 digits"),
        ("0x" + "f" * 5000, "a number of 5002 digits"),
        ("{[a]: b}", "a key must be a word"),
        ('"\\ud800"', "control character U\\+D800"),
        ('"\\e[31m"', "control character U\\+001B"),
        ("a: \x00", "U\\+0000"),
        ('"\\UFFFFFFFF"', "is not valid YAML"),
        ("%YAML " + "9" * 5000 + ".1\n--- 1", "is not valid YAML"),
        (f"a: *{SECRET}", "undefined alias"),
        (f"%TAG !{SECRET}!", "is not valid YAML"),
        (f"a: [{SECRET}", "line 1"),
        ("x" * (MAX_CHARACTERS + 1), "at most 100,000 are read"),
    ],
)
def test_other_texts_are_refused_and_not_repeated(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^the recipe.*{message}") as caught:
        parse_yaml(text, "the recipe")
    assert SECRET not in str(caught.value) and len(str(caught.value)) < 200
