"""Labels in real databases, with several annotators at once: SQLite and PostgreSQL."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from halovid.labelling.assignment import common_items
from halovid.labelling.database import Conflict, LabelDatabase, Settings, open_database
from halovid.labelling.material import Material
from halovid.labelling.service import Labelling, Refused
from halovid.store.errors import InputError
from people_run import good_scores

Open = Callable[..., Labelling]


def save_id() -> str:
    return uuid.uuid4().hex


def label_all(labelling: Labelling, name: str, start: threading.Barrier, mode: str = "rate") -> Counter[str]:
    """Everything that is left for an annotator is labelled; item -> how often it was saved as done."""
    start.wait()
    annotator, done = labelling.join(name)["annotator"], Counter[str]()
    while (task := labelling.next(annotator, mode)["task"]) is not None:
        content: dict[str, Any] = {"scores": good_scores()} if mode == "rate" else {"preference": 0}
        draft = labelling.save(annotator, task["item"], "open", content, task["revision"], save_id())
        labelling.save(annotator, task["item"], "done", content, draft["revision"], save_id())
        done[task["item"]] += 1
    return done


@pytest.mark.parametrize("mode", ["rate", "compare"])
def test_three_at_once_label_all_and_share_what_is_common(
    url: str, mode: Any, open_labelling: Open, material: Material
) -> None:
    start = threading.Barrier(3)
    desks = [open_labelling(url) for _ in range(3)]  # each with connections of its own, as three servers would have
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(label_all, desk, f"person {index}", start, mode) for index, desk in enumerate(desks)]
        items_given = [job.result(timeout=60) for job in jobs]
    total = sum(items_given, Counter[str]())
    common = common_items(material.items(mode), 0.5, 0)
    assert sorted(total.values()) == sorted([3] * len(common) + [1] * (len(material.items(mode)) - len(common)))
    assert all(set(counts.values()) <= {1} for counts in items_given)
    stored = desks[0]._database.finished()
    assert len(stored) == total.total()
    assert {answer.revision for _, answer in stored} == {2}


def test_servers_that_start_at_once_agree_on_tables_and_settings(url: str, open_labelling: Open) -> None:
    with ThreadPoolExecutor(4) as pool:
        desks = list(pool.map(lambda _: open_labelling(url), range(4)))
    ids = [desk.join("Ann")["annotator"] for desk in desks]
    assert len(set(ids)) == 1


def test_the_same_save_counts_once_and_an_older_one_is_in_conflict(url: str, open_labelling: Open) -> None:
    labelling = open_labelling(url)
    annotator = labelling.join("Ann")["annotator"]
    item = labelling.next(annotator, "rate")["task"]["item"]
    first = save_id()
    content = {"scores": {"visual_quality": 2}}
    assert [labelling.save(annotator, item, "open", content, 0, first)["revision"] for _ in range(3)] == [1, 1, 1]
    with pytest.raises(Conflict) as conflict:
        labelling.save(annotator, item, "open", {"scores": {"visual_quality": 5}}, 0, save_id())
    stored = labelling.task_of(conflict.value, annotator)
    assert (stored["revision"], stored["content"]["scores"]) == (1, {"visual_quality": 2})


def test_one_of_many_equal_saves_wins(url: str, open_labelling: Open) -> None:
    labelling = open_labelling(url)
    annotator = labelling.join("Ann")["annotator"]
    item = labelling.next(annotator, "rate")["task"]["item"]
    start = threading.Barrier(6)

    def save(score: int) -> int:
        start.wait()
        try:
            content = {"scores": {"visual_quality": score}}
            return score * int(labelling.save(annotator, item, "open", content, 0, save_id())["revision"])
        except Conflict:
            return 0

    with ThreadPoolExecutor(6) as pool:
        won = [score for score in pool.map(save, [1, 2, 3, 4, 5, 1]) if score]
    assert len(won) == 1
    assert labelling.next(annotator, "rate")["task"]["content"]["scores"] == {"visual_quality": won[0]}


def test_names_of_every_kind_are_kept(url: str, open_labelling: Open) -> None:
    labelling = open_labelling(url)
    names = ["O'Neil; DROP TABLE answers;--", "<script>", "\N{FOX FACE} Ünï", "%s {0} \\", "a" * 80]
    ids = {labelling.join(name)["annotator"] for name in names}
    assert len(ids) == len(names)
    assert labelling.join("  A  n  ")["name"] == "A n"
    for refused in ("", " \t", "a" * 81, "a\x00b", "\ud800", "a\x1bb"):
        with pytest.raises(Refused):
            labelling.join(refused)


def test_settings_hold_for_good(url: str, open_labelling: Open) -> None:
    open_labelling(url, overlap=0.5)
    open_labelling(url, overlap=0.5)
    with pytest.raises(InputError, match=r"begun with .*overlap 0\.5.*not with .*overlap 0\.25"):
        open_labelling(url, overlap=0.25)


def test_other_clips_are_refused(sqlite: LabelDatabase, settings: Settings) -> None:
    sqlite.fix_settings(settings)
    with pytest.raises(InputError, match="other clips"):
        sqlite.fix_settings(settings.model_copy(update={"identity": "another run"}))


def test_sqlite_writes_ahead_and_waits_for_the_disk(sqlite: LabelDatabase) -> None:
    with sqlite.transaction() as session:
        pragmas = [session.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous")]
    assert pragmas == ["wal", 2]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://u:secret@h/d", "mysql"),
        ("not a url", "no URL"),
        ("sqlite://", "known are"),
        ("sqlite:///:memory:", "known are"),
        ("postgresql://u:secret@127.0.0.1:1/d", "can't use the database"),
    ],
)
def test_databases_that_are_none_are_refused_without_their_password(url: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as error:
        open_database(url, tmp_path, "generate").create()
    assert "secret" not in str(error.value)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(InputError, match="not a database"):
        open_database(f"sqlite:///{path}", tmp_path, "generate").create()
