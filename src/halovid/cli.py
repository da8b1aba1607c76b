"""The `halovid` command: one verb per stage, and `run` for all of them."""

from __future__ import annotations

import errno
import importlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from safetensors import SafetensorError

from halovid.config import load_config
from halovid.errors import InputError, TrainingError
from halovid.runtime import console
from halovid.stages import STAGES, run_stage

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


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, Ctrl-C ends with one line; here and not in `main`, since typer would end without a word."""
    try:
        yield
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to continue", 130)


@app.command()
def run(recipe: Recipe, run_dir: RunDir, overrides: Overrides = None) -> None:
    """Run all stages in order: generate, judge, reward, score, pair, align, baseline, evaluate, report.

    Stages that are complete are skipped, an interrupted one continues where it stopped.
    """
    config = load_config(recipe, tuple(overrides or ()))
    with interruptible():
        for name in STAGES:
            run_stage(name, config, run_dir)
    importlib.import_module("halovid.summary").print_summary(run_dir)


def _add_stage_command(name: str) -> None:
    """Adds the command of one stage; its help is the module's own docstring, read without importing it."""

    def command(recipe: Recipe, run_dir: RunDir, overrides: Overrides = None) -> None:
        with interruptible():
            run_stage(name, load_config(recipe, tuple(overrides or ())), run_dir)

    app.command(name, help=STAGE_HELP[name])(command)


def _judge(
    recipe: Recipe,
    run_dir: RunDir,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="print calls, tokens and cost of the judge 'openai'; ask and write nothing"),
    ] = False,
) -> None:
    config = load_config(recipe, tuple(overrides or ()))
    if dry_run:
        importlib.import_module("halovid.stages.judge").dry_run(config, run_dir)
    else:
        run_stage("judge", config, run_dir)


STAGE_HELP = {
    "generate": "Sample candidate clips of every prompt.",
    "judge": "Have a judge label the clips and their patches.",
    "reward": "Train the reward model: on clip labels, then on patch labels.",
    "score": "Reward every clip and every patch.",
    "restore": "Make pairs without a judge: good clips against the same with regions made anew.",
    "pair": "Build preference pairs with the margin of the clips and of every patch.",
    "align": "Train the generator on the pairs with Gran-DPO.",
    "baseline": "Sample and measure the base generator on held-out prompts.",
    "evaluate": "Sample and measure the aligned generator, and compare it with the base.",
    "report": "Write the HTML report.",
}
for _name in STAGES:
    if _name == "judge":
        app.command(_name, help=STAGE_HELP[_name])(_judge)
    else:
        _add_stage_command(_name)


@app.command()
def study(
    recipe: Annotated[Path, typer.Argument(metavar="STUDY", help="the study, a YAML file; see recipes/studies/")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the folder that holds its runs and results")],
) -> None:
    """Compare methods: tune each alike, train it with several seeds, measure all on held-out prompts.

    Cells that are complete are skipped, an interrupted study continues where it stopped.
    """
    with interruptible():
        importlib.import_module("halovid.study").run_study(recipe, out)


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
