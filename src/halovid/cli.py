"""The `halovid` command: one verb per stage, and `run` for all of them."""

from __future__ import annotations

import errno
import importlib
import os
import re
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from safetensors import SafetensorError

from halovid.config import RunConfig, load_config
from halovid.errors import InputError, TrainingError
from halovid.people import agreement, label_app
from halovid.runtime import console

STAGES = ("generate", "judge", "reward", "score", "pair", "align", "evaluate", "report")

app = typer.Typer(
    help="Align text-to-video diffusion models with local rewards: find defects patch by patch, train away from "
    "them, and prove that it worked.\n\nStart with `halovid run recipes/demo.yaml runs/demo`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Recipe = Annotated[Path, typer.Argument(help="the recipe, a YAML file; see recipes/")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="the folder that holds all results of this run")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="change a setting of the recipe: --set align.steps=800 (repeatable)")
]


def run_stage(name: str, config: RunConfig, run_dir: Path) -> None:
    """Runs one stage; its module is imported only now, so that --help and errors come at once."""
    try:
        importlib.import_module(f"halovid.stages.{name}").run(config, run_dir)
    except KeyboardInterrupt:  # here and not in main: typer would end without a word
        _fail("interrupted; run the same command again to continue", 130)


@app.command()
def run(recipe: Recipe, run_dir: RunDir, overrides: Overrides = None) -> None:
    """Run all stages in order: generate, judge, reward, score, pair, align, evaluate, report.

    Stages that are complete are skipped, an interrupted one continues where it stopped.
    """
    config = load_config(recipe, tuple(overrides or ()))
    for name in STAGES:
        run_stage(name, config, run_dir)
    importlib.import_module("halovid.summary").print_summary(run_dir)


def _add_stage_command(name: str) -> None:
    """Adds the command of one stage; its help is the module's own docstring, read without importing it."""

    def command(recipe: Recipe, run_dir: RunDir, overrides: Overrides = None) -> None:
        run_stage(name, load_config(recipe, tuple(overrides or ())), run_dir)

    app.command(name, help=STAGE_HELP[name])(command)


STAGE_HELP = {
    "generate": "Sample candidate clips of every prompt.",
    "judge": "Have a judge label the clips and their patches.",
    "reward": "Train the reward model: on clip labels, then on patch labels.",
    "score": "Reward every clip and every patch.",
    "pair": "Build preference pairs with the margin of the clips and of every patch.",
    "align": "Train the generator on the pairs with Gran-DPO.",
    "evaluate": "Compare base and aligned generator on held-out prompts.",
    "report": "Write the HTML report.",
}
for _name in STAGES:
    _add_stage_command(_name)
app.add_typer(label_app, name="label")
app.command()(agreement)


def main() -> None:
    """Entry point: user mistakes end with one sentence and exit code 2, failed trainings with 1."""
    try:
        app(standalone_mode=True)
    except InputError as error:
        _fail(str(error), 2)
    except TrainingError as error:
        _fail(str(error), 1)
    except (OSError, SafetensorError) as error:
        trouble = _write_trouble(error)
        if trouble is None:
            raise
        _fail(f"can't write {trouble}; what is finished is kept: mend this and run the same command again", 2)


def _write_trouble(error: OSError | SafetensorError) -> str | None:
    """What can't be written and why: a full disk or missing rights; None for any other error."""
    if isinstance(error, OSError):
        code, place = error.errno, error.filename
    else:  # safetensors tells the code in its text only
        found = re.search(r"os error (\d+)", str(error))
        code, place = int(found[1]) if found else None, None
    if code not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
        return None
    return f"{place or 'the run folder'}: {os.strerror(code)}"


def _fail(message: str, code: int) -> NoReturn:
    """Ends with one line on stderr, however many the message has."""
    console.print(f"error: {' '.join(message.split())}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
