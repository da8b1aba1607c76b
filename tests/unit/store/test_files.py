"""Files are whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halovid.store.files import atomic_path, hash_file, hash_value, write_json, write_text

quick = settings(max_examples=40, deadline=None, derandomize=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=7,
)


def test_the_block_writes_beside_the_target_which_appears_at_its_end(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.mp4"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        assert temporary.parent == target.parent
        assert temporary.suffix == ".mp4"  # writers that choose a format by it
        assert not target.exists()
    assert target.read_bytes() == b"half"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_in_the_block_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_text(target, "old")
    with pytest.raises(RuntimeError, match="in the middle"), atomic_path(target) as temporary:
        temporary.write_text("new, but only ha")
        raise RuntimeError("in the middle")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_reader_holds_the_old_file_while_it_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a"
    write_text(target, "old")
    with target.open() as reader:
        write_text(target, "new")
        assert reader.read() == "old"
    assert target.read_text() == "new"


def test_the_data_is_on_the_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    fsync, replace = os.fsync, Path.replace

    def watch_fsync(handle: int) -> None:
        calls.append(("fsync", os.fstat(handle).st_ino))
        fsync(handle)

    def watch_replace(self: Path, target: Path) -> Path:
        calls.append(("replace", self.stat().st_ino))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(Path, "replace", watch_replace)
    write_text(tmp_path / "a", "text")
    inode = (tmp_path / "a").stat().st_ino
    assert calls[:2] == [("fsync", inode), ("replace", inode)]


def test_files_are_readable_by_others(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "text")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


@quick
@given(json_values)
def test_json_comes_back_and_equal_values_give_equal_files_and_hashes(
    tmp_path_factory: pytest.TempPathFactory, value: object
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_json(path, {"z": value, "a": 1})
    first = path.read_bytes()
    assert json.loads(first) == {"z": value, "a": 1}
    write_json(path, {"a": 1, "z": value})
    assert path.read_bytes() == first
    assert hash_value({"z": value, "a": 1}) == hash_value({"a": 1, "z": value})
    assert hash_value({"a": value}) != hash_value({"b": value})


def test_text_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "ä😀")
    assert (tmp_path / "a").read_bytes() == "ä😀".encode()


def test_hashes_are_those_of_sha_256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(256)) * 999)
    assert hash_file(tmp_path / "a") == hashlib.sha256(bytes(range(256)) * 999).hexdigest()
    assert hash_value({"b": [1, None], "a": "x"}) == hashlib.sha256(b'{"a": "x", "b": [1, null]}').hexdigest()
