"""A run, its database on SQLite and on PostgreSQL, and the labelling of it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from halovid.labelling.database import LabelDatabase, Settings, open_database
from halovid.labelling.material import Material, load_material
from halovid.labelling.service import Labelling
from halovid.maths.grid import PatchGrid
from people_run import make_run


@pytest.fixture(scope="session")
def clips_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prompts with three clips each, generated and evaluated. Not to be changed."""
    return make_run(tmp_path_factory.mktemp("people") / "run", evaluated=True)


@pytest.fixture(scope="session")
def material(clips_run: Path) -> Material:
    return load_material(clips_run, "generate", seed=0)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server of our own, without the name of a database."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = binaries[-1].parent if binaries else None
    if found is None:
        on_path = shutil.which("initdb")
        if on_path is None:
            pytest.skip("no PostgreSQL server: initdb is neither in /usr/lib/postgresql/*/bin nor on the path")
        found = Path(on_path).parent
    folder = Path(tempfile.mkdtemp(prefix="halovid-pg-"))
    user = _unprivileged()
    if user:
        shutil.chown(folder, user)

    def run(program: str, *arguments: str) -> None:
        command = [str(found / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, user=user, timeout=60)

    try:
        run("initdb", "-D", str(folder / "data"), "-U", "halovid", "-A", "trust", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder}"
        run("pg_ctl", "-D", str(folder / "data"), "-o", options, "-l", str(folder / "log"), "-w", "start")
        yield f"postgresql://halovid@/{{}}?host={folder}"
        run("pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> str | None:
    """Whom PostgreSQL runs as where the tests run as root, which it refuses."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/labels.sqlite"
    server = request.getfixturevalue("postgres")
    name = f"d{abs(hash(str(tmp_path)))}"
    import psycopg

    with psycopg.connect(server.format("postgres"), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return str(server.format(name))


@pytest.fixture(scope="session")
def settings(material: Material) -> Settings:
    """A small grid, unequal along its axes; half of the clips are common."""
    return Settings(
        source="generate",
        identity=material.identity,
        grid=PatchGrid(2, 2, 3),
        patch_aspects=("visual_quality", "temporal_consistency"),
        overlap=0.5,
        seed=0,
    )


@pytest.fixture
def open_labelling(material: Material, settings: Settings, tmp_path: Path) -> Callable[..., Labelling]:
    """Gives the labelling of the run on the database of a URL, through connections of its own."""

    def make(url: str, overlap: float = 0.5) -> Labelling:
        database = open_database(url, tmp_path, "generate")
        database.create()
        own = settings.model_copy(update={"overlap": overlap})
        database.fix_settings(own)
        return Labelling(database, material, own)

    return make


@pytest.fixture
def sqlite(tmp_path: Path) -> LabelDatabase:
    database = open_database(None, tmp_path, "generate")
    database.create()
    return database
