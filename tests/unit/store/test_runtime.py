"""What people see of a stage's work."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halovid.store import runtime
from halovid.store.runtime import console, progress, show_rate


@given(st.floats(1e-6, 1e6))
def test_a_rate_is_never_shown_as_nothing(per_second: float) -> None:
    number, unit = re.fullmatch(r"([\d.]+)(/s| s each)", show_rate(per_second)).groups()  # type: ignore[union-attr]
    shown = float(number) if unit == "/s" else 1 / float(number)
    assert shown == pytest.approx(per_second, rel=0.06)


def test_an_unknown_rate_is_left_out() -> None:
    assert show_rate(0) == ""


def test_slow_items_are_told_in_seconds_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 40.0])
    monkeypatch.setattr(runtime.time, "monotonic", lambda: next(now))
    with progress("sample", 10) as advance:
        advance()
    assert capsys.readouterr().err == "sample: 1/10, 40.0 s each, 360 s left\n"


def test_paths_are_not_cut_at_the_edge_of_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/".join(["a folder with a long name"] * 12)
    console.print(f"generate: settings changed; earlier result now {path}", style="yellow")
    assert path in capsys.readouterr().err
