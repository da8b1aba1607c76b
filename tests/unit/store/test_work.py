"""Works and executors: what any executor must do, shown by the one of the package and by one of other processes."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from halovid.store.errors import InputError
from halovid.store.folders import StageFolder
from halovid.store.work import BatchResult, Executor, Item, LocalExecutor, Row, Skip, Work, Worker, do_batch

SCHEMA = pa.schema([("number", pa.int64()), ("square", pa.int64())], metadata={"halovid.table": "squares"})


@dataclass(frozen=True)
class SquareNumbers:
    """Work on numbers: each gets a row and a file; those named in `unlucky` are skipped, `fatal` ends everything."""

    folder: Path
    unlucky: tuple[int, ...] = ()
    fatal: int | None = None

    def open(self) -> Worker[int]:
        (self.folder / "opened").mkdir(parents=True, exist_ok=True)
        return self._square_all

    def _square_all(self, numbers: Sequence[int], skip: Skip) -> list[Row]:
        rows = []
        for number in numbers:
            if number == self.fatal:
                raise InputError(f"{number} can't be squared")
            if number in self.unlucky:
                skip(str(number), "out of luck", again=number % 2 == 0)
                continue
            (self.folder / f"{number}.txt").write_text(str(number))
            rows.append({"number": number, "square": number**2})
        return rows


class OtherProcesses:
    """An executor whose batches are done by two other processes, each of which opens the work for itself."""

    def map(self, work: Work[Item], batches: Iterable[Sequence[Item]]) -> Iterator[BatchResult]:
        waiting = list(batches)
        if waiting:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(2, context, initializer=_open_work, initargs=(work,)) as pool:
                yield from pool.map(_do_batch, waiting)


_WORKERS: list[Worker[Any]] = []


def _open_work(work: Work[Any]) -> None:
    _WORKERS.append(work.open())


def _do_batch(batch: Sequence[Any]) -> BatchResult:
    return do_batch(_WORKERS[0], batch)


EXECUTORS = [LocalExecutor(), OtherProcesses()]


@pytest.fixture(params=EXECUTORS, ids=lambda executor: type(executor).__name__)
def executor(request: pytest.FixtureRequest) -> Executor:
    """Any executor: add yours to EXECUTORS."""
    return request.param


def test_results_come_in_the_order_of_the_batches(executor: Executor, tmp_path: Path) -> None:
    batches = [[3, 1], [2], [7, 5, 6]]
    results = list(executor.map(SquareNumbers(tmp_path, unlucky=(1, 2)), batches))
    assert [[row["number"] for row in result.rows] for result in results] == [[3], [], [7, 5, 6]]
    assert [result.skipped for result in results] == [
        [{"item": "1", "reason": "out of luck"}],
        [{"item": "2", "reason": "out of luck", "again": True}],
        [],
    ]
    assert {path.stem for path in tmp_path.glob("*.txt")} == {"3", "5", "6", "7"}


def test_nothing_is_opened_without_a_batch(executor: Executor, tmp_path: Path) -> None:
    assert list(executor.map(SquareNumbers(tmp_path), [])) == []
    assert not (tmp_path / "opened").exists()


def test_an_error_ends_the_work_and_keeps_what_came_before(executor: Executor, tmp_path: Path) -> None:
    results = executor.map(SquareNumbers(tmp_path, fatal=4), [[1], [4], [5]])
    assert next(results).rows == [{"number": 1, "square": 1}]
    with pytest.raises(InputError, match="4 can't be squared"):
        next(results)


@pytest.mark.parametrize("size", [1, 3, 20])
def test_a_stage_gets_the_same_table_from_every_executor_in_batches_of_any_size(
    executor: Executor, size: int, tmp_path: Path
) -> None:
    stage = StageFolder(tmp_path / "stage", "")
    stage.executor = executor
    table = stage.map_batches("square", range(7), size, SquareNumbers(tmp_path, unlucky=(2, 5)), SCHEMA)
    assert table.to_pylist() == [{"number": n, "square": n**2} for n in (0, 1, 3, 4, 6)]
    assert [entry["item"] for entry in stage.skipped] == ["2", "5"]


def test_a_stage_goes_on_with_another_executor_where_the_first_one_failed(executor: Executor, tmp_path: Path) -> None:
    stage = StageFolder(tmp_path / "stage", "")
    with pytest.raises(InputError):
        stage.map_batches("square", range(6), 2, SquareNumbers(tmp_path / "first", fatal=4), SCHEMA)
    stage.executor = executor
    table = stage.map_batches("square", range(6), 3, SquareNumbers(tmp_path / "second"), SCHEMA)
    assert table["square"].to_pylist() == [0, 1, 4, 9, 16, 25]
    assert {path.stem for path in (tmp_path / "second").glob("*.txt")} == {"4", "5"}


def test_a_work_can_be_sent() -> None:
    work = SquareNumbers(Path("folder"), unlucky=(1,))
    assert pickle.loads(pickle.dumps(work)) == work
