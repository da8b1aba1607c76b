"""Imports point down, no module is in a circle of imports, and nothing grows out of sight."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from halovid.stages import STAGES
from halovid.store.lazy import load_named

SOURCE = Path(__file__).parents[1] / "src" / "halovid"
MAX_FUNCTION, MAX_FILE = 80, 400

# One folder, one floor, from low to high: a folder imports only what stands above it in this list.
FLOORS = (
    "store",  # files, tables, checkpoints, stage folders, the machine
    "maths",  # tensors in, tensors out
    "records",  # what crosses floors, frozen and typed
    "config",  # recipes
    "remote",  # models behind servers, as judges and rewards ask them
    "world",  # the embedded world
    "formats",  # data of others
    "pages",  # what people look at
    "models",  # diffusion models
    "judges",  # who labels clips
    "clips",  # clip folders and prompt files
    "labelling",  # labels from people
    "rewards",  # reward models
    "search",  # better clips of the same generator, found by their rewards
    "measuring",  # measures of clips, and how raters agree
    "training",  # how a generator is trained
    "stages",  # the steps of a run
    "commands",  # what else the command line does with runs
    "study",  # many runs, compared
    "cli",
    "world_training",  # makes the weights of the embedded world: a program of its own
    "__main__",
)
FILES = sorted(SOURCE.rglob("*.py"))


def module_name(path: Path) -> str:
    """`judges.base` of src/halovid/judges/base.py; "" of the package itself."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def folder(module: str) -> str:
    """`judges` of `judges.vlm.client`."""
    return module.split(".")[0]


def imported_modules(path: Path) -> set[str]:
    """The modules of this package that a file imports anywhere, also inside functions and for types only."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively; write the whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        modules |= {module for name in names if (module := resolve(name))}
    return modules


def resolve(name: str) -> str | None:
    """The module of this package that defines a dotted name, None for what is not ours."""
    parts = name.split(".")
    if parts[0] != "halovid":
        return None
    while len(parts) > 1 and ".".join(parts[1:]) not in MODULES:
        parts.pop()
    return ".".join(parts[1:])


IMPORTS = {module: imported_modules(path) - {module} for module, path in MODULES.items()}
EDGES = [(module, target) for module, targets in IMPORTS.items() for target in sorted(targets) if module and target]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_the_floors_are_the_folders() -> None:
    folders = {folder(module) for module in MODULES if module}
    assert folders == set(FLOORS)
    assert len(FLOORS) == len(set(FLOORS))


def test_the_reader_of_imports_sees_them() -> None:
    assert "maths.grid" in IMPORTS["maths.losses"]
    assert {"config.run", "store.errors", "store.files"} <= IMPORTS["models.loading"]
    assert "world.render" in IMPORTS["world.inspector"]  # from halovid.world import render
    assert len(EDGES) > 100


def test_no_import_climbs() -> None:
    floor = {name: number for number, name in enumerate(FLOORS)}
    climbing = [f"{module} -> {target}" for module, target in EDGES if floor[folder(module)] < floor[folder(target)]]
    assert not climbing


def test_no_imports_form_a_circle() -> None:
    try:
        TopologicalSorter({module: IMPORTS[module] for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_nothing_is_imported_that_one_system_alone_has() -> None:
    """Else nothing would start on Windows."""
    tied = re.compile(r"^\s*(?:import|from) (?:fcntl|resource|pwd|grp|termios|msvcrt|winreg)\b", re.MULTILINE)
    assert not [path for path in FILES if tied.search(path.read_text(encoding="utf-8"))]


def test_no_stage_imports_another() -> None:
    stages = {f"stages.{name}" for name in STAGES}
    assert not [edge for edge in EDGES if edge[1] in stages]  # the command imports them by name when it runs one


def test_only_the_entry_point_imports_the_command() -> None:
    assert [module for module, target in EDGES if target == "cli.main"] == ["__main__"]


def test_generic_modules_know_the_embedded_world_by_name_only() -> None:
    """What a recipe can choose of the embedded world stands in tables of names."""
    outside = [edge for edge in EDGES if edge[1].startswith("world.") or edge[1] == "world"]
    assert all(folder(module) in ("world", "world_training") for module, _ in outside)


NAMES = sorted(
    (module, node.value)
    for module, path in MODULES.items()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"halovid[\w.]+:\w+", node.value)
)


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_what_a_table_names_exists(module: str, name: str) -> None:
    assert load_named(name) is not None


def test_tables_of_names_are_seen() -> None:
    assert {"judges", "clips.prompts", "clips.good_clips", "models"} <= {module for module, _ in NAMES}


def test_the_world_is_trained_by_its_own_command_alone() -> None:
    outside = [edge for edge in EDGES if edge[1].startswith("world_training")]
    assert all(module.startswith("world_training") for module, _ in outside)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_functions_and_files_stay_short(path: Path) -> None:
    long = [
        f"{function.name}: {length} lines"
        for function in functions(path)
        if (length := (function.end_lineno or 0) - function.lineno + 1) > MAX_FUNCTION
    ]
    assert not long
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE
