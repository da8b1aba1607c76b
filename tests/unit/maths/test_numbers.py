"""Numbers as people see them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halovid.maths.numbers import show_interval, show_number

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (34.12, "34.1"),
        (6.95, "6.95"),
        (6.9, "6.90"),
        (9.996, "10.0"),
        (99.96, "100"),
        (1234.4, "1234"),
        (0.01416, "0.0142"),
        (-2.62e-05, "-2.62e-05"),
        (1e-300, "1.00e-300"),
        (0.0, "0"),
        (-0.0, "0"),
        (1e6, "1.00e+06"),
        (123_456.7, "123457"),
        (math.nan, "\N{EM DASH}"),
        (-math.inf, "\N{EM DASH}"),
    ],
)
def test_three_digits_of_every_number(value: float, shown: str) -> None:
    assert show_number(value) == shown


def test_differences_have_their_sign() -> None:
    assert [show_number(value, signed=True) for value in (0.5, -0.5, 0.0)] == ["+0.500", "-0.500", "0"]


@given(NUMBERS)
def test_what_is_shown_is_the_number_to_three_digits(value: float) -> None:
    assert float(show_number(value)) == pytest.approx(value, rel=0.005, abs=0)
    assert (float(show_number(value)) == 0) == (value == 0)


@given(NUMBERS)
def test_the_sign_changes_nothing_else(value: float) -> None:
    assert show_number(value, signed=True).removeprefix("+") == show_number(value)


def test_an_interval_without_ends_is_not_shown() -> None:
    assert show_interval(-0.5, 12.345) == "-0.500 to +12.3"
    assert show_interval(math.nan, 1.0) == ""
