"""Imports point down, no module is in a circle of imports, and nothing grows out of sight."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "halovid"
MAX_FUNCTION, MAX_FILE = 80, 400

# From low to high. A name stands for the module or package and all that is in it, unless a longer name is listed.
LAYERS: tuple[tuple[str, ...], ...] = (
    # facts: errors, files, mathematics on tensors and arrays
    (
        *("errors", "grid", "optimizers", "data", "data.files"),
        *("alignment", "alignment.losses", "alignment.noising", "alignment.pairing"),
        *("evaluation", "evaluation.metrics", "evaluation.reliability", "evaluation.video_metrics"),
    ),
    ("evaluation.protocols",),
    # what stages share on disk and on screen
    ("data.checkpoint", "data.tables", "data.video", "data.folders", "runtime", "page"),
    ("config",),
    ("world",),
    # machinery: what stages are made of
    (
        *("generators", "judges", "rewards", "data.prompts", "data.clips", "data.good_clips", "label_budget"),
        *("alignment.policy", "alignment.monitor", "alignment.restoring"),
        *("evaluation.best_of", "evaluation.measures", "evaluation.raters", "evaluation.rater_agreement"),
        *("formats", "labelling"),
    ),
    ("stages", "world.training", "exchange", "score_folder", "merge", "study.findings"),
    ("study", "cli"),
    ("cli.main", "__main__"),
)
FILES = sorted(SOURCE.rglob("*.py"))


def module_name(path: Path) -> str:
    """`judges.base` of src/halovid/judges/base.py; "" of the package itself."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def layer_entry(module: str) -> tuple[int, str]:
    """The number of a module's layer and the name by which the table lists it."""
    entries = [
        (level, name) for level, names in enumerate(LAYERS) for name in names if f"{module}.".startswith(f"{name}.")
    ]
    assert entries, f"{module} is in no layer: add it to LAYERS"
    return max(entries, key=lambda entry: len(entry[1]))


def imported_modules(path: Path) -> set[str]:
    """The modules of this package that a file imports anywhere, also inside functions and for types only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively; write the whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {own for name in names if (own := resolve(name))}
    return found


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


def test_every_module_is_in_one_layer_and_every_entry_stands_for_one() -> None:
    used = {layer_entry(module)[1] for module in MODULES if module}
    listed = [name for names in LAYERS for name in names]
    assert used == set(listed)
    assert len(listed) == len(set(listed))


def test_the_reader_of_imports_sees_them() -> None:
    assert IMPORTS["alignment.losses"] == {"grid"}
    assert {"errors", "generators.base", "grid", "alignment.noising"} <= IMPORTS["generators.wan"]
    assert "world.render" in IMPORTS["world.inspector"]  # from halovid.world import render
    assert len(EDGES) > 100


def test_imports_point_down() -> None:
    wrong = [f"{module} -> {target}" for module, target in EDGES if layer_entry(module)[0] < layer_entry(target)[0]]
    assert not wrong


def test_no_imports_form_a_circle() -> None:
    try:
        TopologicalSorter({module: IMPORTS[module] for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_stage_imports_another() -> None:
    stages = [(module, target) for module, target in EDGES if target.startswith("stages.")]
    assert not stages  # the command imports them by name when it runs one


def test_only_the_entry_point_imports_the_command() -> None:
    assert [module for module, target in EDGES if target == "cli.main"] == ["__main__"]


def test_the_world_is_trained_by_its_own_command_alone() -> None:
    outside = [edge for edge in EDGES if edge[1].startswith("world.training")]
    assert all(module.startswith("world.training") for module, _ in outside)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_functions_and_files_stay_short(path: Path) -> None:
    long = [
        f"{function.name}: {length} lines"
        for function in functions(path)
        if (length := (function.end_lineno or 0) - function.lineno + 1) > MAX_FUNCTION
    ]
    assert not long
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE
