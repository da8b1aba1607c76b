"""Models of the hub are known by their commit; those that nobody has are told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from halovid.store.errors import InputError
from halovid.store.hub import cached_commit, hub_commit


class NoNetwork(Exception):
    """As the client of the hub raises it: neither an OSError nor a ValueError."""


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Model -> commit of what was downloaded."""
    commits: dict[str, str] = {}

    def snapshot(model: str, revision: str | None, local_files_only: bool) -> str:
        assert local_files_only
        if model not in commits:
            raise FileNotFoundError(model)
        return f"/cache/{model}/snapshots/{commits[model]}"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return commits


def answer(monkeypatch: pytest.MonkeyPatch, result: str | Exception) -> None:
    def model_info(model: str, revision: str | None, timeout: float) -> Any:
        if isinstance(result, Exception):
            raise result
        return SimpleNamespace(sha=result)

    monkeypatch.setattr(huggingface_hub, "model_info", model_info)


def test_the_copy_on_this_machine_counts_and_else_the_hub(
    cached: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, "newer")
    assert hub_commit("a/b") == "newer"
    cached["a/b"] = "older"
    assert (cached_commit("a/b"), hub_commit("a/b")) == ("older", "older")


def test_without_a_network_the_reason_is_told_in_one_line(
    cached: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, NoNetwork("name not known\nmore"))
    with pytest.raises(
        InputError, match=r"generator\.model 'a/b' is neither .* can't be asked: NoNetwork: name"
    ) as told:
        hub_commit("a/b", subject="generator.model")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("model", ["runs/no/model", "/no/such/folder", "a b"])
def test_what_can_be_no_name_is_told(model: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the hub has no models of such a name"):
        hub_commit(model)
