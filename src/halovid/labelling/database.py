"""The database of labels: SQLite in the run folder or PostgreSQL by its URL, through SQLAlchemy.

When a method returns, its changes are on the disk: SQLite writes ahead (WAL) and waits for the disk at each commit.
Transactions that write run one after another, so annotators, tabs and servers can't undo each other's work.
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
_LOCK_TIMEOUT = 30  # seconds that a writer waits for another one
_ADVISORY_LOCK = 0x68616C6F  # the key of the lock that PostgreSQL's writers take in turn


class Settings(BaseModel):
    """The settings that all labels of a database share; stored when the first server starts, then fixed."""

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
    """The table with the one row of settings."""

    __tablename__ = "labelling"
    id: Mapped[int] = mapped_column(primary_key=True)
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)


class Annotator(_Base):
    """A person, known by a name of their choice."""

    __tablename__ = "annotators"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


class Answer(_Base):
    """An annotator's answer to an item; its state is `open` until it is finished.

    revision: the number of saves. save_id: the id of the last save, by which one that is sent twice is recognised.
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
        """The item that it answers."""
        return Item(self.first, self.second)


class Conflict(Exception):
    """A save that was made from an older revision than the stored `answer`."""

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
        """A session whose changes are all committed at the end, or none of them."""
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def create(self) -> None:
        """Creates missing tables; several servers may do so at once.

        Raises:
            InputError: the database can't be reached, or the file is no database.
        """
        with self._errors_in_one_sentence(), self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            _Base.metadata.create_all(connection)

    @contextmanager
    def _errors_in_one_sentence(self) -> Iterator[None]:
        """Turns errors of the database into an InputError with one sentence."""
        try:
            yield
        except SQLAlchemyError as error:
            raise InputError(f"can't use the database {self.shown_url}: {_driver_message(error)}") from error

    def read_settings(self) -> Settings | None:
        """The stored settings, None when there are none yet.

        Raises:
            InputError: the settings are of another version, or the database is damaged or another program's.
        """
        with self._errors_in_one_sentence(), self.transaction() as session:
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

    def fix_settings(self, settings: Settings) -> None:
        """Stores the settings for all labels of this database, unless equal ones are stored.

        Raises:
            InputError: other settings are stored already.
        """
        with self._errors_in_one_sentence(), self.transaction() as session:
            take_turn(session)
            if session.get(_Labelling, 1) is None:
                session.add(_Labelling(id=1, settings=settings.model_dump(mode="json")))
        stored = self.read_settings()
        if stored is not None and stored.identity != settings.identity:
            raise InputError(
                f"{self.shown_url} holds labels of other clips than those in the run now: export them "
                f"(halovid label export) and move the database away, or name another one with --database"
            )
        if stored != settings:
            raise InputError(
                f"{self.shown_url} was begun with {_describe_options(stored)}, not with {_describe_options(settings)}; "
                f"leave the options out to go on, or name another database with --database"
            )

    def join(self, name: str) -> int:
        """The id of the annotator of this name, who is added if new."""
        with self.transaction() as session:
            take_turn(session)
            annotator = session.scalar(select(Annotator).where(Annotator.name == name))
            if annotator is None:
                # a random id: a page that is still open when the database is replaced must not match somebody in it
                annotator = Annotator(id=secrets.randbits(31), name=name)
                session.add(annotator)
                session.flush()
            return annotator.id

    def name(self, annotator_id: int) -> str | None:
        """The name of the annotator with this id, None when there is none."""
        with self.transaction() as session:
            annotator = session.get(Annotator, annotator_id)
            return annotator.name if annotator else None

    def save(
        self, annotator_id: int, item: Item, state: State, content: dict[str, Any], base: int, save_id: str
    ) -> Answer:
        """Stores an answer that was made from revision `base`, and returns it; a save sent twice is stored once.

        Raises:
            Conflict: the stored answer has another revision.
            LookupError: the annotator was never given this item.
        """
        with self.transaction() as session:
            take_turn(session)
            answer = find_answer(session, annotator_id, item)
            if answer is None:
                raise LookupError("the annotator was never given this item")
            if answer.save_id == save_id:
                return answer
            if answer.revision != base:
                session.expunge(answer)  # so that it can be read after the transaction
                raise Conflict(answer)
            answer.state, answer.content, answer.save_id = state, content, save_id
            answer.revision += 1
            answer.saved_at = time.time()
            return answer

    def finished(self) -> list[tuple[str, Answer]]:
        """(annotator's name, answer) of all answers that are done or skipped, sorted by item and name.

        Raises:
            InputError: the database is damaged.
        """
        with self._errors_in_one_sentence(), self.transaction() as session:
            rows = session.execute(
                select(Annotator.name, Answer)
                .join(Answer, Answer.annotator_id == Annotator.id)
                .where(Answer.state != "open")
            ).all()
        named_answers = [(name, answer) for name, answer in rows]
        return sorted(named_answers, key=lambda row: (row[1].item, row[0]))


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
    """Waits for the transactions that write, and makes others wait for this one; SQLite does so by itself."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})


def open_database(url: str | None, run_dir: Path, source: Source, create: bool = True) -> LabelDatabase:
    """The database of a URL, by default RUN/label/SOURCE.sqlite.

    Args:
        create: whether a missing SQLite file may be created.

    Raises:
        InputError: the URL names neither SQLite nor PostgreSQL, or the file is missing and must not be created.
    """
    parsed = _read_url(url) if url else URL.create("sqlite", database=str(run_dir / "label" / f"{source}.sqlite"))
    if parsed.get_backend_name() == "sqlite" and not create and not Path(str(parsed.database)).is_file():
        raise InputError(f"there are no labels in {parsed.database}; make some with halovid label")
    return LabelDatabase(parsed)


def _read_url(url: str) -> URL:
    """The URL of a database with its driver; InputError for anything but SQLite files and PostgreSQL."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:  # the message does not repeat the URL: it may hold a password
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
    """An engine whose SQLite transactions begin where the code begins them and lock out other writers."""
    if url.get_backend_name() == "postgresql":
        return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    try:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"can't make the folder of {url.database}: {error.strerror}") from error
    engine = create_engine(url, connect_args={"timeout": _LOCK_TIMEOUT})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # else the driver itself begins transactions, too late
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        # takes the write lock at once: a reader that asks for it later gets an error instead of waiting
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _driver_message(error: SQLAlchemyError) -> str:
    """The message of the database driver, without statement and parameters."""
    return str(getattr(error, "orig", None) or error).strip()


def _describe_options(settings: Settings | None) -> str:
    """The settings that a user chooses, in words."""
    if settings is None:
        return "none"
    grid = "x".join(str(size) for size in settings.grid.shape)
    aspects = ",".join(settings.patch_aspects)
    return f"grid {grid}, overlap {settings.overlap:g}, seed {settings.seed}, patch aspects {aspects}"
