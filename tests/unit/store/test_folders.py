"""Stage folders: complete, stale, damaged, interrupted, and in use by somebody else."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halovid.store import folders
from halovid.store.errors import DamageError, InputError
from halovid.store.files import TEMPORARY, hash_file
from halovid.store.folders import StageFolder, open_stage
from halovid.store.lock import locked
from halovid.store.manifests import read_manifest
from halovid.store.parts import PartFolder
from halovid.store.tables import read_table
from halovid.store.work import Skip, Worker

SCHEMA = pa.schema([("item", pa.int64())], metadata={"halovid.table": "items", "halovid.version": "1"})
CONFIG = {"seed": 7}


def work(run_dir: Path, config: dict[str, Any] = CONFIG, name: str = "count", inputs: Sequence[str] = ()) -> bool:
    """Runs a stage that writes one table and one log; whether there was anything to do."""
    with open_stage(run_dir, name, config, inputs) as stage:
        if stage is None:
            return False
        stage.write("items.parquet", pa.table({"item": [1, 2, 3]}, schema=SCHEMA))
        (stage.path / "log.jsonl").write_text('{"step": 1}\n')
        return True


@dataclass(frozen=True)
class FunctionWork:
    """Work that is a function of a batch and of `skip`."""

    function: Worker[int]

    def open(self) -> Worker[int]:
        return self.function


def square(stage: StageFolder, done: list[int], fail_at: int | None = None, size: int = 3) -> pa.Table:
    """The squares of 0..10 in batches; odd multiples of 3 are skipped, `fail_at` raises."""

    def batch(items: Sequence[int], skip: Skip) -> list[dict[str, int]]:
        rows = []
        for item in items:
            if item == fail_at:
                raise RuntimeError("stopped")
            done.append(item)
            if item % 6 == 3:
                skip(f"item {item}", "odd multiple of 3")
            else:
                rows.append({"item": item * item})
        return rows

    return stage.map_batches("square numbers", range(11), size, FunctionWork(batch), SCHEMA)


SQUARES = [item * item for item in range(11) if item % 6 != 3]
SKIPPED = [{"item": f"item {item}", "reason": "odd multiple of 3"} for item in (3, 9)]


def run_squares(run_dir: Path, done: list[int], fail_at: int | None = None, size: int = 3) -> None:
    """A stage that consists of `square`."""
    with open_stage(run_dir, "square", CONFIG) as stage:
        if stage is not None:
            stage.write("items.parquet", square(stage, done, fail_at, size))


def test_a_complete_stage_is_skipped_and_left_alone(tmp_path: Path) -> None:
    assert work(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "count").rglob("*")}
    assert not work(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "count").rglob("*")} == before


def test_the_manifest_tells_how_the_result_was_made(tmp_path: Path) -> None:
    work(tmp_path)
    work(tmp_path, name="next", inputs=["count"])
    manifest = read_manifest(tmp_path / "next")
    assert manifest is not None
    assert manifest.keys() == {"stage", "fingerprint", "config", "inputs", "outputs", "skipped", "threads", "versions"}
    assert manifest["stage"] == "next"
    assert manifest["config"] == CONFIG
    assert manifest["inputs"].keys() == {"count"}
    assert manifest["outputs"].keys() == {"items.parquet", "log.jsonl"}
    assert {"python", "halovid", "torch", "diffusers"} <= manifest["versions"].keys()


def test_another_config_sets_the_earlier_result_aside(tmp_path: Path) -> None:
    work(tmp_path)
    old = (tmp_path / "count" / "manifest.json").read_bytes()
    assert work(tmp_path, {"seed": 8})
    [aside] = (tmp_path / "superseded").iterdir()
    assert aside.name.startswith("count-")
    assert (aside / "manifest.json").read_bytes() == old
    assert read_table(aside / "items.parquet", SCHEMA).num_rows == 3


def test_an_earlier_result_comes_back_with_its_config(tmp_path: Path) -> None:
    work(tmp_path)
    old = (tmp_path / "count" / "manifest.json").read_bytes()
    work(tmp_path, {"seed": 8})
    assert not work(tmp_path), "made again although it was only set aside"
    assert (tmp_path / "count" / "manifest.json").read_bytes() == old
    assert not work(tmp_path, {"seed": 8})


def test_a_failing_config_costs_no_finished_result(tmp_path: Path) -> None:
    work(tmp_path)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no such model"), open_stage(tmp_path, "count", {"seed": 9}):
            raise RuntimeError("no such model")
    assert not work(tmp_path)


def test_what_is_set_aside_never_replaces_something(tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / "count").mkdir()
        (tmp_path / "count" / "notes.txt").write_text(text)  # of the user: no stage wrote it
        work(tmp_path)
        for path in (tmp_path / "count").iterdir():
            path.unlink()
        (tmp_path / "count").rmdir()
    kept = sorted(path.read_text() for path in (tmp_path / "superseded").rglob("notes.txt"))
    assert kept == ["first", "second"]


@pytest.mark.parametrize("name", ["items.parquet", "log.jsonl"])
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-1]), Path.unlink])
def test_a_damaged_output_is_made_again(tmp_path: Path, name: str, damage: Callable[[Path], Any]) -> None:
    work(tmp_path)
    path = tmp_path / "count" / name
    good = path.read_bytes()
    damage(path)
    assert work(tmp_path)
    assert path.read_bytes() == good
    assert not work(tmp_path)


def test_new_settings_upstream_make_equal_outputs_stale(tmp_path: Path) -> None:
    # as with clips, whose table is the same for another model: only the settings tell them apart
    work(tmp_path)
    work(tmp_path, name="next", inputs=["count"])
    assert not work(tmp_path, name="next", inputs=["count"])
    work(tmp_path, {"seed": 8})
    assert work(tmp_path, name="next", inputs=["count"])


def test_an_upstream_stage_must_be_complete(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'count' is not complete .* run `halovid count` first"):
        work(tmp_path, name="next", inputs=["count"])
    assert not (tmp_path / "next").exists()


@pytest.mark.parametrize("text", ['{"stage": "cou', "", "{}", "[1, 2]", "\ufffd"])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    work(tmp_path)
    (tmp_path / "count" / "manifest.json").write_bytes(text.encode("utf-8") if text != "\ufffd" else b"\xff\xfe")
    with pytest.raises(InputError, match=r"manifest\.json .* delete it and run the stage again"):
        work(tmp_path)
    with pytest.raises(InputError, match=r"manifest\.json"):
        work(tmp_path, name="next", inputs=["count"])
    (tmp_path / "count" / "manifest.json").unlink()
    assert work(tmp_path)


def test_batches_continue_where_an_exception_stopped_them(tmp_path: Path) -> None:
    done: list[int] = []
    with pytest.raises(RuntimeError, match="stopped"):
        run_squares(tmp_path, done, fail_at=7)
    assert done == [0, 1, 2, 3, 4, 5, 6]
    assert read_manifest(tmp_path / "square") is None
    done.clear()
    run_squares(tmp_path, done)
    assert done == [6, 7, 8, 9, 10], "the first two batches were finished"
    assert read_table(tmp_path / "square" / "items.parquet", SCHEMA).column("item").to_pylist() == SQUARES
    manifest = read_manifest(tmp_path / "square")
    assert manifest is not None
    assert manifest["skipped"] == SKIPPED


def test_a_continued_table_is_the_uninterrupted_one(tmp_path: Path) -> None:
    for run, stops in (("a", [None]), ("b", [1, 4, 4, 10, None])):
        for stop in stops:
            try:
                run_squares(tmp_path / run, [], stop)
            except RuntimeError:
                assert stop is not None
    a, b = (read_manifest(tmp_path / run / "square") for run in "ab")
    assert a == b
    assert a is not None and a["outputs"].keys() == {"items.parquet"}


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(1, 12)), max_size=4), st.integers(1, 12))
@settings(max_examples=8, deadline=None)
def test_another_batch_size_continues_what_is_finished(stops: list[tuple[int, int]], size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, stopped = Path(folder) / "whole", Path(folder) / "stopped"
        run_squares(whole, [])
        for item, other_size in stops:
            with contextlib.suppress(RuntimeError):
                run_squares(stopped, [], item, other_size)
        run_squares(stopped, [], size=size)
        table = "square/items.parquet"
        assert (stopped / table).read_bytes() == (whole / table).read_bytes()
        assert read_manifest(stopped / "square") == read_manifest(whole / "square")


def test_only_what_is_not_finished_is_made_with_the_new_batch_size(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        run_squares(tmp_path, [], fail_at=7)
    done: list[int] = []
    run_squares(tmp_path, done, size=2)
    assert done == [6, 7, 8, 9, 10]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _of_another_schema(path: Path) -> None:
    """A whole part, as an older halovid may have left it."""
    path.unlink()
    schema = pa.schema([("thing", pa.string())])
    PartFolder(path.parent, "square numbers", schema).write(range(3), pa.table({"thing": ["x"]}, schema), [])


def _swap(path: Path) -> None:
    other = next(other for other in path.parent.glob("square*") if other != path)
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)


@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink, _of_another_schema, _swap])
def test_a_damaged_part_is_made_again(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    run_squares(tmp_path / "whole", [])
    with pytest.raises(RuntimeError, match="stopped"):
        run_squares(tmp_path, [], fail_at=7)
    damage(next((tmp_path / "square" / "parts").glob("square-numbers-000000-*")))
    done: list[int] = []
    run_squares(tmp_path, done)
    again = [0, 1, 2, 3, 4, 5] if damage is _swap else [0, 1, 2]
    assert done == [*again, 6, 7, 8, 9, 10]
    assert read_manifest(tmp_path / "square") == read_manifest(tmp_path / "whole" / "square")


def test_threads_are_told_in_the_manifest_and_when_they_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = 0

    def set_threads(number: int | None) -> None:
        nonlocal threads
        threads = number or 0

    monkeypatch.setattr(folders, "set_threads", set_threads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for number in (2, 2, 3):
        with pytest.raises(RuntimeError), open_stage(tmp_path, "count", CONFIG) as stage:
            assert stage is not None
            stage.use_threads(number)
            raise RuntimeError
        told = "goes on with 3 threads after 2; rounding may differ" in capsys.readouterr().err
        assert told == (number == 3)
    with open_stage(tmp_path, "count", CONFIG) as stage:
        assert stage is not None
        stage.use_threads(3)
    manifest = read_manifest(tmp_path / "count")
    assert manifest is not None and manifest["threads"] == [2, 3]


def run_flaky(run_dir: Path, done: list[int], down: set[int], stop_at: int | None = None) -> bool:
    """A stage of items 0..7 in batches of 2; items of `down` fail for now, 5 for ever. Whether it was opened."""
    with open_stage(run_dir, "flaky", CONFIG) as stage:
        if stage is None:
            return False

        def batch(items: Sequence[int], skip: Skip) -> list[dict[str, int]]:
            if stop_at in items:
                raise RuntimeError("stopped")
            done.extend(items)
            for item in items:
                if item == 5:
                    skip("item 5", "never works")
                elif item in down:
                    skip(f"item {item}", "is down", again=True)
            return [{"item": item} for item in items if item not in down | {5}]

        stage.write("items.parquet", stage.map_batches("flaky", range(8), 2, FunctionWork(batch), SCHEMA))
        return True


def items(run_dir: Path) -> list[int]:
    return read_table(run_dir / "flaky" / "items.parquet", SCHEMA).column("item").to_pylist()


def test_only_what_failed_for_now_is_tried_again_until_it_is_done(tmp_path: Path) -> None:
    done: list[int] = []
    assert run_flaky(tmp_path, done, {2, 7})
    assert items(tmp_path) == [0, 1, 3, 4, 6]
    skipped = {entry["item"]: entry.get("again") for entry in read_manifest(tmp_path / "flaky")["skipped"]}
    assert skipped == {"item 2": True, "item 5": None, "item 7": True}
    done.clear()
    assert run_flaky(tmp_path, done, {7})
    assert done == [2, 3, 6, 7], "batches without a failure that may pass are kept"
    assert items(tmp_path) == [0, 1, 2, 3, 4, 6]
    assert run_flaky(tmp_path, done, set())
    assert items(tmp_path) == [0, 1, 2, 3, 4, 6, 7]
    assert not run_flaky(tmp_path, done, set()), "what never works does not keep the stage open"


def test_a_result_with_failures_is_valid_until_a_better_one_is_there(tmp_path: Path) -> None:
    run_flaky(tmp_path, [], {2})
    before = read_manifest(tmp_path / "flaky")
    with pytest.raises(RuntimeError):
        run_flaky(tmp_path, [], set(), stop_at=3)
    assert read_manifest(tmp_path / "flaky") == before
    assert work(tmp_path, name="next", inputs=["flaky"])
    run_flaky(tmp_path, [], {2})
    assert not work(tmp_path, name="next", inputs=["flaky"]), "the same failures again change nothing downstream"
    run_flaky(tmp_path, [], set())
    assert work(tmp_path, name="next", inputs=["flaky"])


def test_failures_before_a_kill_are_tried_again_too(tmp_path: Path) -> None:
    done: list[int] = []
    with pytest.raises(RuntimeError):
        run_flaky(tmp_path, done, {0}, stop_at=6)
    done.clear()
    run_flaky(tmp_path, done, set())
    assert done == [0, 1, 6, 7]
    assert items(tmp_path) == [0, 1, 2, 3, 4, 6, 7]


def test_no_items_give_an_empty_table_of_the_schema(tmp_path: Path) -> None:
    with open_stage(tmp_path, "square", CONFIG) as stage:
        assert stage is not None
        table = stage.map_batches("nothing", [], 3, FunctionWork(lambda items, skip: []), SCHEMA)
        stage.write("items.parquet", table)
    assert read_table(tmp_path / "square" / "items.parquet", SCHEMA).num_rows == 0


def test_finished_batches_outlive_a_manifest_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_manifest", full_disk)
        with pytest.raises(OSError, match="No space left"):
            run_squares(tmp_path, [])
    done: list[int] = []
    run_squares(tmp_path, done)
    assert done == []


def test_parts_left_by_a_kill_after_the_manifest_are_cleared(tmp_path: Path) -> None:
    work(tmp_path)
    (tmp_path / "count" / "parts").mkdir()
    (tmp_path / "count" / "parts" / "training.safetensors").write_bytes(b"large")
    assert not work(tmp_path)
    assert not list((tmp_path / "count" / "parts").iterdir())


def test_temporary_files_of_a_killed_process_are_no_outputs(tmp_path: Path) -> None:
    done: list[int] = []
    with pytest.raises(RuntimeError):
        run_squares(tmp_path, done, fail_at=7)
    (tmp_path / "square" / f"{TEMPORARY}x7fq2a.parquet").write_bytes(b"PAR1 half a tab")
    (tmp_path / "square" / ".notes.of.mine").write_text("the user's")
    (tmp_path / "square" / ".hidden.folder").mkdir()
    run_squares(tmp_path, done)
    manifest = read_manifest(tmp_path / "square")
    assert manifest is not None
    assert manifest["outputs"].keys() == {"items.parquet"}
    assert sorted(path.name for path in (tmp_path / "square").glob(".*")) == [".hidden.folder", ".notes.of.mine"]


def test_one_process_per_run_folder(tmp_path: Path) -> None:
    work(tmp_path)
    with locked(tmp_path), pytest.raises(InputError, match=f"in use by process {os.getpid()}; wait for it"):
        work(tmp_path, {"seed": 8})
    assert not (tmp_path / "superseded").exists()
    assert work(tmp_path, {"seed": 8})


def test_the_lock_goes_with_an_exception(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), open_stage(tmp_path, "count", CONFIG):
        with pytest.raises(InputError, match=f"in use by process {os.getpid()}"):
            work(tmp_path)
        raise RuntimeError
    assert work(tmp_path)


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"can't write the run folder .*file/run: "):
        work(tmp_path / "file" / "run")


def test_a_manifest_is_readable_json_with_sorted_keys(tmp_path: Path) -> None:
    work(tmp_path, {"b": 1, "a": "\N{FOX FACE}"})
    text = (tmp_path / "count" / "manifest.json").read_text(encoding="utf-8")
    assert "\N{FOX FACE}" in text
    assert list(json.loads(text)["config"]) == ["a", "b"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\0" * 64, b"", b"abc", b"g" * 64])
def test_a_damaged_mark_of_a_finished_stage_is_mended(tmp_path: Path, content: bytes) -> None:
    work(tmp_path)
    mark = tmp_path / "count" / "fingerprint"
    whole = mark.read_bytes()
    mark.write_bytes(content)
    assert not work(tmp_path), "a finished result was set aside"
    assert mark.read_bytes() == whole


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\0" * 64, b""])
def test_a_damaged_mark_of_an_interrupted_stage_costs_no_more_than_its_work(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(RuntimeError):
        run_squares(tmp_path, [], fail_at=7)
    (tmp_path / "square" / "fingerprint").write_bytes(content)
    run_squares(tmp_path, [])
    assert read_table(tmp_path / "square" / "items.parquet", SCHEMA).column("item").to_pylist() == SQUARES
    assert [path.name for path in (tmp_path / "superseded").iterdir()] == ["square-unknown"]


@pytest.mark.parametrize("change", [{"skipped": None}, {"outputs": []}, {"fingerprint": 3}, {"config": {"seed": 1}}])
def test_a_manifest_that_was_changed_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    work(tmp_path)
    path = tmp_path / "count" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=r"manifest\.json is not what a stage wrote; delete it and run"):
        work(tmp_path)


def test_an_input_is_checked_before_it_is_read(tmp_path: Path) -> None:
    work(tmp_path)
    _flip(tmp_path / "count" / "items.parquet")
    with pytest.raises(DamageError, match=r"items\.parquet is missing or not what the stage 'count' wrote"):
        work(tmp_path, name="next", inputs=["count"])
    assert work(tmp_path)
    assert work(tmp_path, name="next", inputs=["count"])


FILES = pa.schema([("file", pa.string()), ("file_sha256", pa.string())], metadata=SCHEMA.metadata)


def run_files(run_dir: Path, made: list[int]) -> bool:
    """A stage that makes a file of each number from 0 to 7, two at once. Whether it was opened."""
    with open_stage(run_dir, "files", CONFIG) as stage:
        if stage is None:
            return False

        def make(numbers: Sequence[int], skip: Skip) -> list[dict[str, str]]:
            made.extend(numbers)
            for number in numbers:
                (stage.path / f"{number}.txt").write_text(f"number {number}")
            names = [f"{number}.txt" for number in numbers]
            return [{"file": name, "file_sha256": hash_file(stage.path / name)} for name in names]

        stage.write("files.parquet", stage.map_batches("make files", range(8), 2, FunctionWork(make), FILES))
        return True


@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink])
def test_only_what_is_damaged_is_made_anew(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    made: list[int] = []
    run_files(tmp_path, made)
    whole = read_manifest(tmp_path / "files")
    made.clear()
    damage(tmp_path / "files" / "5.txt")
    assert run_files(tmp_path, made)
    assert made == [4, 5]
    assert (tmp_path / "files" / "5.txt").read_text() == "number 5"
    made.clear()
    damage(tmp_path / "files" / "files.parquet")
    assert run_files(tmp_path, made)
    assert made == []
    assert read_manifest(tmp_path / "files") == whole
    assert not run_files(tmp_path, made)


def test_files_that_a_table_names_elsewhere_are_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with open_stage(tmp_path, "files", CONFIG) as stage:
        assert stage is not None
        table = pa.table({"file": ["../mine.txt"], "file_sha256": ["0" * 64]}, schema=FILES)
        stage.write("files.parquet", table)
    with open_stage(tmp_path, "files", CONFIG) as stage:
        assert stage is not None
    assert (tmp_path / "mine.txt").read_text() == "mine"
