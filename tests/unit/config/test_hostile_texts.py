"""What comes from outside as text: read, or refused in one sentence; `tests/hostile_texts.py` tries thousands."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostile_texts import check


@pytest.mark.parametrize(("kind", "count"), [("recipes", 150), ("extremes", 60), ("prompts", 100), ("tables", 150)])
def test_odd_texts_are_read_or_refused_in_one_sentence(kind: str, count: int, tmp_path: Path) -> None:
    problems, refused = check(kind, count, 7, tmp_path)
    assert not [problem for problem in problems if not problem.endswith(" s")], "\n".join(problems)
    assert refused == 0 if kind == "extremes" else 0 < refused <= count
