"""The `halovid` command: one subcommand per stage, `run` for all stages, and the commands around them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from halovid.cli.people import agreement, label_app
from halovid.stages import STAGES, check_stages, planned_run, required_stages, run_stage
from halovid.store.errors import DamageError, InputError, MachineError, TrainingError
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

Recipe = Annotated[Path, typer.Argument(help="the recipe, a YAML file; recipes/ has examples")]
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
    """Ends the command with one line on Ctrl-C, which typer would catch before `main` and end without a word."""
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
    """Run all stages that a recipe needs, in order. Reads the recipe's prompts; writes RUN with report/report.html.

    Complete stages are skipped, an interrupted one continues where it stopped, imported ones are kept.
    """
    from halovid.store.manifests import is_imported

    config = _load_config(recipe, overrides)
    with interruptible():
        imported = [name for name in STAGES if is_imported(run_dir, name)]
        console.print(planned_run(config, imported))
        required = required_stages(config, available=imported)
        to_run = [name for name in required if name not in imported]
        for warning in check_stages(to_run, config, run_dir):
            console.print(warning, style="yellow")
        for name in to_run:
            run_stage(name, config, run_dir)
    importlib.import_module("halovid.cli.summary").print_summary(run_dir)


# stage -> the folders of RUN that it reads, and what it writes, as its help says them
def _add_stage_command(name: str) -> None:
    """Adds the command that runs one stage."""

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
    source: Annotated[Path, typer.Argument(help="the data set: a folder or a table")],
    run_dir: RunDir,
    recipe: Annotated[
        Path | None, typer.Option(help="the recipe of the later stages; its generator encodes the prompts")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Make a run of an existing data set. Reads clips, ratings and preferences; writes RUN/generate, judge, pair.

    docs/data.md describes the formats.
    """
    config = _optional_config(recipe, overrides)
    with interruptible():
        importlib.import_module("halovid.commands.exchange").import_run(data_format, source, run_dir, config)


@app.command("export")
def export_data(
    data_format: FormatName,
    run_dir: RunDir,
    target: Annotated[Path, typer.Argument(help="the folder to write, new or empty")],
) -> None:
    """Convert a run to another project's format. Reads RUN/generate, judge, pair; writes the folder TARGET."""
    with interruptible():
        importlib.import_module("halovid.commands.exchange").export_run(data_format, run_dir, target)


@app.command(
    "score",
    help="Compute a reward for every clip and every patch. Reads a run, or any folder named by --clips; writes "
    "RUN/score, or the table named by --output.",
)
def score(
    recipe: Annotated[Path | None, typer.Argument(help="the recipe, a YAML file; recipes/ has examples")] = None,
    run_dir: Annotated[Path | None, typer.Argument(metavar="RUN", help="the folder of this run")] = None,
    overrides: Overrides = None,
    clips: Annotated[Path | None, typer.Option(help="a folder of clips, to score without a run")] = None,
    reward: Annotated[
        Path | None, typer.Option(help="with --clips: the folder of a reward model, or a run that has one")
    ] = None,
    trained: Annotated[
        Path | None,
        typer.Option("--recipe", help="with --clips: the recipe of the reward model, if its run is not beside it"),
    ] = None,
    output: Annotated[Path, typer.Option(help="with --clips: the table to write, .csv or .parquet")] = Path(
        "scores.csv"
    ),
    heatmaps: Annotated[
        Path | None, typer.Option(help="with --clips: a folder for copies of the clips with bad patches tinted red")
    ] = None,
) -> None:
    """Scores a run with its recipe, or a folder of clips with a reward model."""
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


@app.command(
    "repair",
    help=f"{STAGES['repair'].help} With --prompts or --clips it repairs new clips or those of a folder, by a reward "
    "model that exists already.",
)
def repair(
    recipe: Recipe,
    run_dir: RunDir,
    overrides: Overrides = None,
    prompts: Annotated[Path | None, typer.Option(help="a file of prompts: clips of them are sampled first")] = None,
    clips: Annotated[Path | None, typer.Option(help="a folder of clips to repair")] = None,
    reward: Annotated[
        Path | None, typer.Option(help="with --prompts or --clips: a reward model's folder, or a run that has one")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="with --prompts or --clips: trained weights, as RUN/align/weights of a run")
    ] = None,
) -> None:
    """Repairs the candidates of a run, or clips without a run."""
    config = _load_config(recipe, overrides)
    with interruptible():
        if not any((prompts, clips, reward, weights)):
            run_stage("repair", config, run_dir)
            return
        importlib.import_module("halovid.commands.repair_clips").repair_clips(
            config, run_dir, prompts=prompts, clips=clips, reward=reward, weights=weights
        )


def _optional_config(recipe: Path | None, overrides: list[str] | None) -> RunConfig | None:
    """The configuration of a recipe, None without one; InputError for --set without a recipe."""
    if recipe is None and overrides:
        raise InputError("--set changes a recipe; name one with --recipe")
    return None if recipe is None else _load_config(recipe, overrides)


for _name in STAGES:
    if _name == "judge":
        app.command(_name, help=STAGES[_name].help)(_judge)
    elif _name not in ("score", "repair"):  # defined above, as they also work without a run
        _add_stage_command(_name)


@app.command()
def merge(
    recipe: Recipe,
    run_dir: RunDir,
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="the folder to write, a new one")],
    overrides: Overrides = None,
) -> None:
    """Merge the trained weights into the generator. Reads RUN/align; writes FOLDER, a pipeline without an adapter.

    The folder can be published, or named as generator.model of the next round.
    """
    config = _load_config(recipe, overrides)
    with interruptible():
        importlib.import_module("halovid.commands.merge").merge(config, run_dir, target)


@app.command()
def select(
    recipe: Recipe,
    run_dir: RunDir,
    target: Annotated[
        Path, typer.Argument(metavar="FILE", help="the table to write; name it as judge.questions in the next run")
    ],
    share: Annotated[
        float, typer.Option(min=0, max=1, help="share of all patches to ask about, earlier questions included")
    ],
    overrides: Overrides = None,
) -> None:
    """Choose patches to ask the judge about: the least certain ones. Reads RUN/judge, RUN/reward; writes FILE."""
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
    """Compare methods on held-out prompts, each tuned alike and trained with several seeds. Reads STUDY; writes OUT.

    OUT gets results.parquet, comparison.md and figures. Finished trainings are skipped, an interrupted study continues.
    """
    with interruptible():
        importlib.import_module("halovid.study.runner").run_study(recipe, out)


def main() -> None:
    """Entry point: what users or their machine can mend ends with one sentence and exit code 2, trainings with 1."""
    try:
        app(standalone_mode=True)
    except (InputError, DamageError, MachineError) as error:
        _fail(str(error), 2)
    except TrainingError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to continue", 130)
    except Exception as error:
        message = explain_trouble(error)
        if message is None:
            raise
        _fail(message, 2)


def _fail(message: str, code: int) -> NoReturn:
    """Ends the command with the message on one line of stderr."""
    console.print(f"error: {' '.join(message.split())}", style="red", highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
