"""Where labels are kept: SQLite in the run folder, or PostgreSQL by its URL, through SQLAlchemy.

What a method has returned from is on the disk: SQLite writes ahead (WAL) and waits for the disk at each commit.
Every transaction that writes takes its turn, so annotators, tabs and servers can't undo each other's work.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import JSON, Engine, ForeignKey, UniqueConstraint, create_engine, event, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import ConnectionPoolEntry

from halovid.config.sections import Aspect
from halovid.labelling.answers import State
from halovid.labelling.assignment import Item
from halovid.labelling.material import Source
from halovid.maths.grid import PatchGrid
from halovid.store.errors import InputError

VERSION = 1
_WAIT = 30  # seconds that a writer waits for its turn
_LOCK = 0x68616C6F  # the advisory lock under which PostgreSQL's tables are made


class Settings(BaseModel):
    """What all labels of a database have in common; fixed when the first server starts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = VERSION
    source: Source
    identity: str
    grid: PatchGrid
    patch_aspects: tuple[Aspect, ...]
    overlap: float
    seed: int


class _Base(DeclarativeBase):
    pass


class _Labelling(_Base):
    """The one row of settings; whoever hands out work locks it."""

    __tablename__ = "labelling"
    id: Mapped[int] = mapped_column(primary_key=True)
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)


class Annotator(_Base):
    """A person, known by a name of their choice."""

    __tablename__ = "annotators"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


class Answer(_Base):
    """What a person says of an item; `open` until it is finished.

    revision counts the saves; save_id is that of the last one, so that a save sent twice counts once.
    """

    __tablename__ = "answers"
    __table_args__ = (UniqueConstraint("annotator_id", "first", "second"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotators.id"))
    first: Mapped[str]
    second: Mapped[str]
    prompt_id: Mapped[str]
    state: Mapped[str]
    content: Mapped[dict[str, Any]] = mapped_column(JSON)
    revision: Mapped[int]
    save_id: Mapped[str]
    saved_at: Mapped[float]  # seconds since 1970

    @property
    def item(self) -> Item:
        """What it is about."""
        return Item(self.first, self.second)


class Conflict(Exception):
    """A save that is based on an older state than the stored one, which is `answer`."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("the answer was changed elsewhere meanwhile")
        self.answer = answer


class LabelDatabase:
    """The labels of one run."""

    def __init__(self, url: URL) -> None:
        self._engine = _connect(url)
        self.shown_url = url.render_as_string(hide_password=True)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session whose changes are all kept at the end, or none of them."""
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def create(self) -> None:
        """Makes the tables where they are missing; several servers may do so at once.

        Raises:
            InputError: the database can't be reached, or is none.
        """
        with self._usable(), self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            _Base.metadata.create_all(connection)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Says in one sentence what is wrong with the database."""
        try:
            yield
        except SQLAlchemyError as error:
            raise InputError(f"can't use the database {self.shown_url}: {_reason(error)}") from error

    def read_settings(self) -> Settings | None:
        """The settings of the labels that are here, None when there are none yet.

        Raises:
            InputError: they are of another version, or the database is damaged or another program's.
        """
        with self._usable(), self.transaction() as session:
            row = session.get(_Labelling, 1)
        if row is None:
            return None
        try:
            settings = Settings.model_validate(row.settings)
        except ValidationError as error:
            raise InputError(f"{self.shown_url} does not hold labels of this version of halovid") from error
        if settings.version != VERSION:
            raise InputError(f"{self.shown_url} holds labels of version {settings.version}; this halovid has {VERSION}")
        return settings

    def fix_settings(self, wanted: Settings) -> None:
        """Settles the settings, once and for all labels of this database.

        Raises:
            InputError: others are settled already.
        """
        with self._usable(), self.transaction() as session:
            take_turn(session)
            if session.get(_Labelling, 1) is None:
                session.add(_Labelling(id=1, settings=wanted.model_dump(mode="json")))
        there = self.read_settings()
        if there is not None and there.identity != wanted.identity:
            raise InputError(
                f"{self.shown_url} holds labels of other clips than those in the run now: export them "
                f"(halovid label export) and move the database away, or name another one with --database"
            )
        if there != wanted:
            raise InputError(
                f"{self.shown_url} was begun with {_spell(there)}, not with {_spell(wanted)}; "
                f"leave the options out to go on, or name another database with --database"
            )

    def join(self, name: str) -> int:
        """The id of an annotator, who is made known if new."""
        with self.transaction() as session:
            take_turn(session)
            found = session.scalar(select(Annotator).where(Annotator.name == name))
            if found is None:
                # drawn, so that a page that stays open while the database is exchanged is nobody in the new one
                found = Annotator(id=secrets.randbits(31), name=name)
                session.add(found)
                session.flush()
            return found.id

    def name(self, annotator_id: int) -> str | None:
        """The name of an annotator, None when there is no such one."""
        with self.transaction() as session:
            found = session.get(Annotator, annotator_id)
            return found.name if found else None

    def save(
        self, annotator_id: int, item: Item, state: State, content: dict[str, Any], base: int, save_id: str
    ) -> Answer:
        """Keeps an answer that is based on revision `base`; the same save sent again changes nothing.

        Raises:
            Conflict: the stored answer has another revision.
            LookupError: the annotator never got this item.
        """
        with self.transaction() as session:
            take_turn(session)
            answer = find_answer(session, annotator_id, item)
            if answer is None:
                raise LookupError("the annotator was never given this item")
            if answer.save_id == save_id:
                return answer
            if answer.revision != base:
                session.expunge(answer)  # it is read after the transaction
                raise Conflict(answer)
            answer.state, answer.content, answer.save_id = state, content, save_id
            answer.revision += 1
            answer.saved_at = time.time()
            return answer

    def finished(self) -> list[tuple[str, Answer]]:
        """All answers that are done or skipped, with the annotators' names, in a fixed order.

        Raises:
            InputError: the database is damaged.
        """
        with self._usable(), self.transaction() as session:
            rows = session.execute(
                select(Annotator.name, Answer)
                .join(Answer, Answer.annotator_id == Annotator.id)
                .where(Answer.state != "open")
            ).all()
        found = [(name, answer) for name, answer in rows]
        return sorted(found, key=lambda row: (row[1].item, row[0]))


def find_answer(session: Session, annotator_id: int, item: Item) -> Answer | None:
    """An annotator's answer to an item, None when it was never given to them."""
    return session.scalar(
        select(Answer).where(
            Answer.annotator_id == annotator_id, Answer.first == item.first, Answer.second == item.second
        )
    )


def answers_of_kind(session: Session, pairs: bool) -> Sequence[Answer]:
    """All answers about clips or about pairs, in the order in which the items were given out."""
    kind = Answer.second != "" if pairs else Answer.second == ""
    return session.scalars(select(Answer).where(kind).order_by(Answer.id)).all()


def take_turn(session: Session) -> None:
    """Holds back all other writers until this transaction ends; SQLite has only one at a time anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def open_database(url: str | None, run_dir: Path, source: Source, new: bool = True) -> LabelDatabase:
    """The database of a URL, by default RUN/label/SOURCE.sqlite.

    Args:
        new: whether a file that is not there may be made.

    Raises:
        InputError: the URL is of no kind that is known here, or there is no such file.
    """
    parsed = _read_url(url) if url else URL.create("sqlite", database=str(run_dir / "label" / f"{source}.sqlite"))
    if parsed.get_backend_name() == "sqlite" and not new and not Path(str(parsed.database)).is_file():
        raise InputError(f"there are no labels in {parsed.database}; make some with halovid label")
    return LabelDatabase(parsed)


def _read_url(url: str) -> URL:
    """The database that a URL names; InputError for kinds that are not known here."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:  # not the URL itself: it may hold a password
        raise InputError("--database is no URL; it looks like postgresql://user@host/name or sqlite:///file") from error
    family = parsed.drivername.partition("+")[0]
    if family in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if family == "sqlite" and parsed.database and parsed.database != ":memory:":
        return parsed.set(drivername="sqlite")
    raise InputError(
        f"--database is of kind {parsed.drivername!r}; known are postgresql://user@host/name and sqlite:///file"
    )


def _connect(url: URL) -> Engine:
    """An engine whose transactions are what they seem."""
    if url.get_backend_name() == "postgresql":
        return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    try:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"can't make the folder of {url.database}: {error.strerror}") from error
    engine = create_engine(url, connect_args={"timeout": _WAIT})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver would begin transactions too late
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # a reader that turns writer would fail, not wait

    return engine


def _reason(error: SQLAlchemyError) -> str:
    """What the driver says, without statement and parameters."""
    return str(getattr(error, "orig", None) or error).strip()


def _spell(settings: Settings | None) -> str:
    """The settings that a user chooses."""
    if settings is None:
        return "none"
    grid = "x".join(str(size) for size in settings.grid.shape)
    aspects = ",".join(settings.patch_aspects)
    return f"grid {grid}, overlap {settings.overlap:g}, seed {settings.seed}, patch aspects {aspects}"
