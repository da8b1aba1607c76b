"""The `halovid` command: one verb per stage, and `run` for all of them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from halovid.cli.people import agreement, label_app
from halovid.stages import STAGES, check_stages, required_stages, run_stage
from halovid.store.errors import DamageError, InputError, TrainingError
from halovid.store.runtime import console
from halovid.store.troubles import explain_trouble

if TYPE_CHECKING:  # what needs torch is imported by the command that runs: --help and mistakes come at once
    from halovid.config.run import RunConfig

FORMAT_NAMES = ("folder", "videofeedback", "rewardbench", "genaibench", "vbench", "videodpo")  # formats.FORMATS

app = typer.Typer(
    help="Align text-to-video diffusion models with local rewards: find defects patch by patch, train away from "
    "them, and prove that it worked.\n\nStart with `halovid run recipes/demo.yaml runs/demo`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Recipe = Annotated[Path, typer.Argument(help="the recipe, a YAML file; see recipes/")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="the folder that holds all results of this run")]
FormatName = Annotated[str, typer.Argument(metavar="FORMAT", help="one of: " + ", ".join(FORMAT_NAMES))]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="change a setting of the recipe: --set align.steps=800 (repeatable). A relative path typed here starts "
        "from the current folder, one in the recipe from the recipe's folder",
    ),
]


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, Ctrl-C ends with one line; here and not in `main`, since typer would end without a word."""
    try:
        yield
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to continue", 130)


def _load_config(recipe: Path, overrides: list[str] | None) -> RunConfig:
    """The configuration of a recipe with `--set` applied."""
    with interruptible():
        from halovid.config.recipes import load_config

        return load_config(recipe, tuple(overrides or ()))


@app.command()
def run(recipe: Recipe, run_dir: RunDir, overrides: Overrides = None) -> None:
    """Run all stages that the recipe needs, in order.

    Stages that are complete are skipped, an interrupted one continues where it stopped; imported ones are kept.
    """
    from halovid.store.manifests import is_imported

    config = _load_config(recipe, overrides)
    with interruptible():
        imported = [name for name in STAGES if is_imported(run_dir, name)]
        required = required_stages(config, given=imported)
        check_stages([name for name in required if name not in imported], config)
        for name in required:
            if name in imported:
                console.print(f"{name}: imported, kept", style="dim")
            else:
                run_stage(name, config, run_dir)
    importlib.import_module("halovid.cli.summary").print_summary(run_dir)


def _add_stage_command(name: str) -> None:
    """Adds the command of one stage."""

    def command(recipe: Recipe, run_dir: RunDir, overrides: Overrides = None) -> None:
        with interruptible():
            run_stage(name, _load_config(recipe, overrides), run_dir)

    app.command(name, help=STAGES[name].help)(command)


def _judge(
    recipe: Recipe,
    run_dir: RunDir,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="print calls, tokens and cost of the judge 'openai'; ask and write nothing"),
    ] = False,
) -> None:
    config = _load_config(recipe, overrides)
    with interruptible():
        if dry_run:
            importlib.import_module("halovid.stages.judge").dry_run(config, run_dir)
        else:
            run_stage("judge", config, run_dir)


@app.command("import")
def import_data(
    data_format: FormatName,
    source: Annotated[Path, typer.Argument(help="the folder or table to read")],
    run_dir: RunDir,
    recipe: Annotated[Path | None, typer.Option(help="the recipe that later stages use: encodes the prompts")] = None,
    overrides: Overrides = None,
) -> None:
    """Make a run of clips, ratings and preferences that exist already; docs/data.md tells the formats."""
    config = _optional_config(recipe, overrides)
    with interruptible():
        importlib.import_module("halovid.commands.exchange").import_run(data_format, source, run_dir, config)


@app.command("export")
def export_data(
    data_format: FormatName, run_dir: RunDir, target: Annotated[Path, typer.Argument(help="a new folder")]
) -> None:
    """Write a run's clips, ratings and preferences in a format of others."""
    with interruptible():
        importlib.import_module("halovid.commands.exchange").export_run(data_format, run_dir, target)


@app.command("score", help="Reward every clip and every patch: of a run, or of any folder with --clips and --reward.")
def score(
    recipe: Annotated[Path | None, typer.Argument(help="the recipe, a YAML file; see recipes/")] = None,
    run_dir: Annotated[Path | None, typer.Argument(metavar="RUN", help="the folder of this run")] = None,
    overrides: Overrides = None,
    clips: Annotated[Path | None, typer.Option(help="a folder of clips, to score without a run")] = None,
    reward: Annotated[
        Path | None, typer.Option(help="with --clips: a reward model's folder, or a run with one")
    ] = None,
    trained: Annotated[
        Path | None, typer.Option("--recipe", help="with --clips: the recipe of a reward model that left its run")
    ] = None,
    output: Annotated[Path, typer.Option(help="with --clips: the table to write, .csv or .parquet")] = Path(
        "scores.csv"
    ),
    heatmaps: Annotated[Path | None, typer.Option(help="with --clips: a folder for clips with bad patches red")] = None,
) -> None:
    """Scores a run by its recipe, or a folder by a reward model."""
    if clips is None:
        if recipe is None or run_dir is None:
            raise InputError("name a RECIPE and a RUN, or a folder with --clips and a reward model with --reward")
        with interruptible():
            run_stage("score", _load_config(recipe, overrides), run_dir)
        return
    if recipe is not None or reward is None:
        raise InputError("--clips scores a folder: it needs --reward MODEL, and no RECIPE and RUN")
    config = _optional_config(trained, overrides)
    with interruptible():
        importlib.import_module("halovid.commands.score_folder").score_folder(clips, reward, output, config, heatmaps)


def _optional_config(recipe: Path | None, overrides: list[str] | None) -> RunConfig | None:
    """The configuration of a recipe that may be left out."""
    if recipe is None and overrides:
        raise InputError("--set changes a recipe; name one with --recipe")
    return None if recipe is None else _load_config(recipe, overrides)


for _name in STAGES:
    if _name == "judge":
        app.command(_name, help=STAGES[_name].help)(_judge)
    elif _name != "score":  # which can do without a run
        _add_stage_command(_name)


@app.command()
def merge(
    recipe: Recipe,
    run_dir: RunDir,
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="a new folder")],
    overrides: Overrides = None,
) -> None:
    """Write the aligned generator as one pipeline folder: to publish, or as generator.model of the next round."""
    config = _load_config(recipe, overrides)
    with interruptible():
        importlib.import_module("halovid.commands.merge").merge(config, run_dir, target)


@app.command()
def select(
    recipe: Recipe,
    run_dir: RunDir,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="the table to write, for judge.questions")],
    share: Annotated[float, typer.Option(min=0, max=1, help="share of all patches to ask about, old ones included")],
    overrides: Overrides = None,
) -> None:
    """Choose the patches that are worth a question: those that the run's reward model is least certain of."""
    config = _load_config(recipe, overrides)
    with interruptible():
        importlib.import_module("halovid.commands.label_budget").select_patches(config, run_dir, share, target)


app.add_typer(label_app, name="label")
app.command()(agreement)


@app.command()
def study(
    recipe: Annotated[Path, typer.Argument(metavar="STUDY", help="the study, a YAML file; see recipes/studies/")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the folder that holds its runs and results")],
) -> None:
    """Compare methods: tune each alike, train it with several seeds, measure all on held-out prompts.

    Cells that are complete are skipped, an interrupted study continues where it stopped.
    """
    with interruptible():
        importlib.import_module("halovid.study.runner").run_study(recipe, out)


def main() -> None:
    """Entry point: what users or their machine can mend ends with one sentence and exit code 2, trainings with 1."""
    try:
        app(standalone_mode=True)
    except (InputError, DamageError) as error:
        _fail(str(error), 2)
    except TrainingError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to continue", 130)
    except Exception as error:
        trouble = explain_trouble(error)
        if trouble is None:
            raise
        _fail(trouble, 2)


def _fail(message: str, code: int) -> NoReturn:
    """Ends with one line on stderr, however many the message has."""
    console.print(f"error: {' '.join(message.split())}", style="red", highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
