"""The command itself: how it starts, what it says first, and how it is interrupted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import run_here
from halovid.stages import generate


def interrupt(*_: object) -> None:
    """Stands for a stage during which somebody presses Ctrl-C."""
    raise KeyboardInterrupt


def test_help_waits_for_no_large_library() -> None:
    code = (
        "import sys; sys.argv = ['halovid', '--help']\n"
        "from halovid.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: print([name for name in ('torch', 'diffusers', 'av') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("module", ["halovid.cli.main", "typer", "halovid.config.run"])
def test_an_interrupt_while_starting_is_one_line(module: str, tmp_path: Path) -> None:
    """The interrupt comes while `module` is imported."""
    (tmp_path / "recipe.yaml").write_text("")
    code = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt()); sys.argv = ['halovid', 'run', 'recipe.yaml', 'run']\n"
        "from halovid.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 130
    assert done.stderr.startswith("error: interrupted") and done.stderr.count("\n") == 1


def test_a_run_says_what_it_does_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipe.yaml").write_text("")
    monkeypatch.setattr(generate, "run", interrupt)
    outcome = run_here("run", tmp_path / "recipe.yaml", tmp_path / "run")
    plan, *_, end = outcome.stderr.splitlines()
    assert plan == (
        "run: generate, judge, reward, score, pair, align, baseline, examine, evaluate, report; "
        "left out: good, repair, restore (no pair needs them)"
    )
    assert end.startswith("error: interrupted")


def test_a_missing_key_is_told_before_the_first_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "recipe.yaml").write_text("judge: {judge: openai}")
    monkeypatch.setattr(generate, "run", interrupt)
    outcome = run_here("run", tmp_path / "recipe.yaml", tmp_path / "run")
    assert "judge: the environment variable OPENAI_API_KEY is not set" in outcome.stderr
    assert outcome.stderr.splitlines()[-1].startswith("error: interrupted")
