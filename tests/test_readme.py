"""What the documents promise exists: links, make targets, commands, settings of the recipes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from halovid.cli.main import app
from halovid.config.recipes import changed, load_config
from halovid.stages import STAGES
from halovid.study.runner import combinations, load_study
from test_architecture import FLOORS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WRAPPED = [ROOT / "CHANGELOG.md", *(path for path in DOCUMENTS if path.name != "results.md")]  # that one: by each study
DESIGN = (ROOT / "docs/design.md").read_text(encoding="utf-8")
WIDTH = 120


def prose(text: str) -> Iterator[str]:
    """The lines of a document without its tables and its code, which is fenced or an indented block of its own."""
    in_fence, in_block = False, True
    for line in text.splitlines():
        in_block = not line or (in_block and line.startswith("    "))
        if line.lstrip().startswith("```"):
            in_fence = not in_fence
        elif not (in_fence or in_block or line.lstrip().startswith("|")):
            yield line


@pytest.mark.parametrize("document", WRAPPED, ids=lambda path: path.name)
def test_lines_are_wrapped(document: Path) -> None:
    lines = prose(document.read_text(encoding="utf-8"))
    assert not [line for line in lines if len(line) > WIDTH and len(line.split()) > 1]


def test_prose_is_told_from_tables_and_code() -> None:
    text = "A\n- B\n  C\n\n    code\n\n    code\n| table |\n```\ncode\n```\nD\n    E\n"
    assert list(prose(text)) == ["A", "- B", "  C", "D", "    E"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_exist(document: Path) -> None:
    named = re.findall(
        r"\b((?:src|tests|docs|recipes|dev|benchmarks)/[\w./-]+\.\w+)", document.read_text(encoding="utf-8")
    )
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"^    make ([a-z]+)", text, re.MULTILINE)) <= targets
    commands = set(re.findall(r"(?:`|^    )halovid ([a-z]+)", text, re.MULTILINE))
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert commands <= known | {group.name for group in app.registered_groups}


@pytest.mark.parametrize(
    "module", re.findall(r"`([a-z_]+(?:\.[a-z_A-Z]+)+)`", (ROOT / "docs/method.md").read_text("utf-8"))
)
def test_functions_named_in_the_method_exist(module: str) -> None:
    parts = module.split(".")
    path = ROOT / "src" / "halovid" / Path(*parts[:-1]).with_suffix(".py")
    package = ROOT / "src" / "halovid" / Path(*parts).with_suffix(".py")
    if package.exists():
        return
    assert path.exists(), module
    assert re.search(rf"^(?:def|class) {parts[-1]}\b", path.read_text("utf-8"), re.MULTILINE), module


def test_the_design_lists_stages_and_floors_as_the_code_does() -> None:
    (heading, _), *stages = re.findall(r"^\| ([a-z]+) \| (.+?) \| .+ \| .+ \|$", DESIGN, re.MULTILINE)
    assert heading == "stage" and [name for name, _ in stages] == list(STAGES)
    assert not [name for name, purpose in stages if not STAGES[name].help.startswith(purpose)]
    assert re.findall(r"^\| `(\w+)` \|", DESIGN, re.MULTILINE) == [name for name in FLOORS if name != "__main__"]


@pytest.mark.parametrize("name", re.findall(r"`([a-z_.]+\.[A-Z_]+)`", DESIGN))
def test_tables_named_in_the_design_exist(name: str) -> None:
    module, _, table = name.rpartition(".")
    path = ROOT / "src" / "halovid" / Path(*module.split("."))
    text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    assert re.search(rf"^{table}\b", text, re.MULTILINE)


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_recipes_are_valid(recipe: Path) -> None:
    config = load_config(recipe)
    for prompts in (config.generate.prompts, config.evaluate.prompts):
        assert prompts.file is None or prompts.file.exists()


@pytest.mark.parametrize("path", sorted((ROOT / "recipes/studies").glob("*.yaml")), ids=lambda path: path.name)
def test_studies_are_valid_in_every_setting_that_they_try(path: Path) -> None:
    study, recipe = load_study(path)
    for method in study.methods.values():
        for change in combinations(method.tune):
            changed(recipe, method.change, change, study.tuning.change)
