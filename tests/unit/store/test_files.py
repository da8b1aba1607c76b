"""Files are whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halovid.store import files
from halovid.store.errors import DamageError
from halovid.store.files import (
    TEMPORARY,
    atomic_path,
    check_file,
    hash_file,
    hash_folder,
    hash_value,
    is_intact,
    remembered_hashes,
    write_json,
    write_text,
)

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


def test_files_have_the_rights_that_the_umask_gives(tmp_path: Path) -> None:
    for umask, rights in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(umask)
        try:
            write_text(tmp_path / "file", "text")
        finally:
            os.umask(before)
        assert (tmp_path / "file").stat().st_mode & 0o777 == rights


def test_what_is_not_whole_yet_has_an_unmistakable_name(tmp_path: Path) -> None:
    with atomic_path(tmp_path / ("a" * 250)) as temporary:
        assert temporary.name.startswith(TEMPORARY)


@pytest.fixture
def old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that was written long enough ago for its hash to be remembered."""
    monkeypatch.setattr(files, "_remembered", {})
    monkeypatch.setattr(files, "_SETTLED", -(10**10))
    path = tmp_path / "file"
    path.write_text("text")
    return path


def test_a_hash_is_remembered_as_long_as_the_file_looks_the_same(old_file: Path, tmp_path: Path) -> None:
    digest = hash_file(old_file)
    read: list[int] = []
    assert hash_file(old_file, read.append) == digest and read == [4]
    old_file.write_text("other text")
    assert hash_file(old_file) == hashlib.sha256(b"other text").hexdigest()
    old_file.unlink()
    old_file.write_text("next")
    assert hash_file(old_file) == hashlib.sha256(b"next").hexdigest()


def test_hashes_are_known_to_the_next_process(old_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = tmp_path / "memory" / "hashes.json"
    with remembered_hashes(memory):
        digest = hash_folder(tmp_path)
    monkeypatch.setattr(files, "_remembered", {})
    with remembered_hashes(memory):
        assert files._remembered.keys() == {str(old_file)}
        old_file.with_name("copy").write_text("text")
        old_file.with_name("copy").unlink()
    memory.unlink()
    monkeypatch.setattr(files, "_remembered", {})
    memory.parent.rmdir()
    assert hash_folder(tmp_path) == digest


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": {"/x": [[1, 2, 3], "ab"]}, "checksum": "no"}', "\0"])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(files, "_remembered", {})
    (tmp_path / "memory").write_text(text)
    with remembered_hashes(tmp_path / "memory"):
        assert not files._remembered


def test_a_file_is_checked_by_its_bytes_whatever_its_times_say(old_file: Path) -> None:
    digest, status = hash_file(old_file), old_file.stat()
    check_file(old_file, digest, "count")
    check_file(old_file, None, "count")
    old_file.write_text("TEXT")
    os.utime(old_file, ns=(status.st_atime_ns, status.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(DamageError, match=r"file is missing or not what the stage 'count' wrote"):
            check_file(old_file, digest, "count")
        assert not is_intact(old_file, digest)
        old_file.unlink(missing_ok=True)


def test_a_large_folder_shows_that_it_is_read(
    old_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files, "_LONG", 1)
    old_file.write_bytes(bytes(3 * 10**6))
    shown = hash_folder(old_file.parent)
    assert f"read {old_file.parent.name} (MB): 3/3" in capsys.readouterr().err
    monkeypatch.setattr(files, "_LONG", 2**30)
    assert hash_folder(old_file.parent) == shown
