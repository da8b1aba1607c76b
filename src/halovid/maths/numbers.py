"""How numbers are shown: one way for terminal, report, tables and figures, so that a number is the same everywhere."""

from __future__ import annotations

import math
from decimal import Decimal

_DIGITS = 3
_PLAIN = (1e-4, 1e6)  # magnitudes that are written without an exponent
NOT_KNOWN = "\N{EM DASH}"


def show_number(value: float, signed: bool = False) -> str:
    """A number with three significant digits: 34.1, 6.90, 1230, 0.0142, -2.62e-05; a dash for one that is not finite.

    Digits before the decimal point are all written, so large numbers have more: 12345. Only a number that is zero
    is shown as zero.

    Args:
        signed: write the plus sign of a positive number as well.
    """
    if not math.isfinite(value):
        return NOT_KNOWN
    if value == 0:
        return "0"
    sign = "+" if signed else ""
    rounded = Decimal(f"{value:.{_DIGITS - 1}e}")
    if not _PLAIN[0] <= abs(rounded) < _PLAIN[1]:
        return f"{value:{sign}.{_DIGITS - 1}e}"
    decimals = max(0, _DIGITS - 1 - rounded.adjusted())
    return f"{value:{sign}.{decimals}f}"


def show_interval(low: float, high: float, signed: bool = True) -> str:
    """An interval as text: -29.6 to -24.7; empty when an end is not finite, as for too few values to resample."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{show_number(low, signed)} to {show_number(high, signed)}"
