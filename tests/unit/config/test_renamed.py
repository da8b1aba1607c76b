"""Settings that have a new name: old recipes are told it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from halovid.config.recipes import make_config
from halovid.config.renamed import RENAMED_SETTINGS
from halovid.config.run import RunConfig
from halovid.store.errors import InputError
from hostile_texts import leaves


@pytest.mark.parametrize(("old", "new"), RENAMED_SETTINGS.items())
def test_an_old_name_is_refused_with_the_new_one(old: str, new: str) -> None:
    raw: Any = 4
    for part in reversed(old.split(".")):
        raw = {part: raw}
    with pytest.raises(InputError, match=f"'{old}' is now called '{new}'"):
        make_config(raw)


def test_new_names_exist_and_old_ones_do_not() -> None:
    known = {setting for setting, _ in leaves(RunConfig)}
    assert not known & RENAMED_SETTINGS.keys()
    known |= {setting.rpartition(".")[0] for setting in known}  # sections
    new = {re.split("[:,]", name)[0] for name in RENAMED_SETTINGS.values()}  # some tell a value besides
    assert {name for name in new if not name.startswith("score.server.")} <= known
