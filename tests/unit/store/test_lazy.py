"""Names that are looked up only when they are needed."""

from __future__ import annotations

import pytest

from halovid.store.lazy import load_named


def test_a_name_gives_what_stands_behind_it() -> None:
    assert load_named("halovid.store.lazy:load_named") is load_named


@pytest.mark.parametrize(
    ("name", "error"),
    [("halovid.nowhere:thing", ImportError), ("halovid.store.lazy:nothing", AttributeError)],
)
def test_a_name_without_anything_behind_it_is_an_error(name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        load_named(name)
