"""The commands for labels from people: `halovid label`, `halovid label export` and `halovid agreement`."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from halovid.config.sections import Aspect
from halovid.store.errors import InputError
from halovid.store.runtime import console

if TYPE_CHECKING:  # at run time only `_import` imports labelling: its libraries come with halovid[people]
    from halovid.labelling.database import LabelDatabase, Settings
    from halovid.labelling.material import Material
    from halovid.maths.grid import PatchGrid

RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a run that has clips")]
Source = Annotated[
    Literal["generate", "evaluate"],
    typer.Option("--of", help="generate: the candidate clips; evaluate: the clips of the base and the aligned model"),
]
Database = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="HALOVID_LABEL_DATABASE",
        show_envvar=True,
        show_default=False,
        help="postgresql://user@host/name or sqlite:///file; by default RUN/label/generate.sqlite or evaluate.sqlite",
    ),
]


class _ServeByDefault(TyperGroup):
    """Makes `label RUN` mean `label serve RUN`, beside the command `label export`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


label_app = typer.Typer(
    cls=_ServeByDefault,
    no_args_is_help=True,
    help="Let people label clips and patches on a page in the browser. Reads RUN; writes RUN/label, a database.",
)


@label_app.command()
def serve(
    run_dir: RunDir,
    source: Source = "generate",
    grid: Annotated[
        str | None,
        typer.Option(
            metavar="TxHxW",
            help="number of patches in time, height and width, such as 4x4x4; by default the grid of the run's judge",
        ),
    ] = None,
    patch_aspects: Annotated[
        list[str] | None,
        typer.Option(
            "--patch-aspect",
            help="an aspect in which patches are marked (repeatable); by default visual_quality, temporal_consistency",
        ),
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(min=0, max=1, help="share of the clips that every annotator labels; 0.2 by default")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="seed of the random order in which annotators get clips; 0 by default")
    ] = None,
    database: Database = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="the port of the page; 0 takes any free one")] = 8765,
) -> None:
    """Serve the labelling page on 127.0.0.1, as `halovid label RUN` does. Reads RUN; writes RUN/label, a database.

    An option that is left out has the value with which the labelling of this run began.
    """
    database_module, material_module = _import("labelling.database"), _import("labelling.material")
    store: LabelDatabase = database_module.open_database(database, _require_run(run_dir), source)
    store.create()
    stored = store.read_settings()
    options = {
        "grid": _read_grid(grid),
        "patch_aspects": _read_aspects(patch_aspects),
        "overlap": overlap,
        "seed": seed,
    }
    defaults = {
        "grid": material_module.judged_grid(run_dir),
        "patch_aspects": ("visual_quality", "temporal_consistency"),
        "overlap": 0.2,
        "seed": 0,
    }
    chosen = {
        name: getattr(stored, name, defaults[name]) if value is None else value for name, value in options.items()
    }
    material: Material = material_module.load_material(run_dir, source, chosen["seed"])
    settings: Settings = database_module.Settings(source=source, identity=material.identity, **chosen)
    store.fix_settings(settings)
    _print_material(material, settings, store)
    _import("labelling.server").serve(_import("labelling.service").Labelling(store, material, settings), port)


def _print_material(material: Material, settings: Settings, store: LabelDatabase) -> None:
    """Prints what can be labelled, where the labels are kept, and the first clips that can't be read."""
    for clip_id, reason in list(material.unreadable.items())[:3]:
        console.print(f"left out: {clip_id}: {reason}", style="yellow", highlight=False)
    shape = "x".join(str(size) for size in settings.grid.shape)
    left_out = f", {len(material.unreadable)} left out" if material.unreadable else ""
    alone = f" ({material.incomparable} clips have no other of their prompt and shape)" if material.incomparable else ""
    counts = f"{len(material.clips)} clips{left_out}, {len(material.pairs)} pairs{alone}"
    summary = f"{counts}, grid {shape}; in {store.shown_url}"
    console.print(summary, highlight=False, soft_wrap=True)


@label_app.command()
def export(
    run_dir: RunDir,
    file: Annotated[Path, typer.Argument(help="the file to write: .parquet or .jsonl")],
    kind: Annotated[
        Literal["labels", "annotators", "votes", "preferences"],
        typer.Option(
            "--what",
            help="labels: one row per clip and aspect, the mean over people, for `judge: table`; annotators: the same "
            "for each person; votes: every rating and every mark with its kind; preferences: compared pairs",
        ),
    ] = "labels",
    source: Source = "generate",
    database: Database = None,
) -> None:
    """Write people's labels as a table. Reads the database in RUN/label; writes FILE. Columns: docs/tables.md."""
    from halovid.store.tables import write_rows

    exports = _import("labelling.export").EXPORTS
    open_database = _import("labelling.database").open_database
    store: LabelDatabase = open_database(database, _require_run(run_dir), source, create=False)
    settings = store.read_settings()
    of_pairs = kind == "preferences"
    answers = [(name, answer) for name, answer in store.finished() if answer.item.is_pair == of_pairs]
    table = exports[kind](answers, settings) if settings else []
    if not len(table):
        raise InputError(f"{store.shown_url} holds nothing finished to export as {kind}; label first: halovid label")
    write_rows(file, table)
    people = len({name for name, answer in answers if answer.state == "done"})
    skipped = sum(answer.state == "skipped" for _, answer in answers)
    console.print(f"{len(table)} rows of {people} people to {file}; {skipped} items were skipped")


def agreement(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="labels, rewards or preferences, .parquet or .jsonl. The others are compared with the first one; if "
            "that has several annotators, they are compared with each other too",
        ),
    ],
    clips: Annotated[
        Path | None,
        typer.Option(
            help="the run's generate/clips.parquet, which says which clips share a prompt: pairs are then formed "
            "within prompts, and prompts are resampled. Tables of rewards and preferences hold prompts themselves"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="the table to write: .parquet or .jsonl")] = None,
    resamples: Annotated[
        int, typer.Option(min=0, help="number of bootstrap resamples for the 95% intervals; 0 leaves the intervals out")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="seed of the resampling")] = 0,
) -> None:
    """Measure how well people, judges and reward models agree. Reads tables of labels or rewards; prints a table."""
    from halovid.store.tables import CLIPS, read_table, write_rows

    measures = importlib.import_module("halovid.measuring.rater_agreement")  # imported late: scipy loads slowly
    prompts: dict[str, str] = {}
    if clips is not None:
        for row in read_table(clips, CLIPS).to_pylist():
            # an evaluation's labels name clips with one of the last two prefixes
            names = (prefix + row["clip_id"] for prefix in ("", "base/", "aligned/"))
            prompts |= dict.fromkeys(names, row["prompt_id"])
    table = measures.agreement_table(files, prompts, resamples, seed)
    if out is not None:
        write_rows(out, table)
    measures.show_agreement(table)


def _import(name: str) -> ModuleType:
    """Imports a module of this package that needs optional libraries; InputError when they are missing."""
    try:
        return importlib.import_module(f"halovid.{name}")
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("halovid"):
            raise
        raise InputError(f"labelling needs the package {error.name}: pip install 'halovid[people]'") from error


def _require_run(run_dir: Path) -> Path:
    """The run's folder; InputError when there is none."""
    if not run_dir.is_dir():
        raise InputError(f"there is no run folder {run_dir}")
    return run_dir


def _read_grid(text: str | None) -> PatchGrid | None:
    """The grid in a text such as 4x4x4, None without a text; InputError for any other text."""
    from halovid.maths.grid import PatchGrid

    if text is None:
        return None
    sizes = text.lower().split("x")
    if len(sizes) != 3 or not all(size.isascii() and size.isdigit() and 1 <= int(size) <= 64 for size in sizes):
        raise InputError(f"--grid is {text!r}; it must look like 4x4x4: patches in time, height and width, 1 to 64")
    return PatchGrid(*(int(size) for size in sizes))


def _read_aspects(names: list[str] | None) -> tuple[Aspect, ...] | None:
    """The aspects with these names in their standard order, None without names; InputError for unknown ones."""
    known = _import("labelling.answers").ASPECTS
    if not names:
        return None
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise InputError(f"--patch-aspect {unknown[0]!r} is not known; aspects are {', '.join(known)}")
    return tuple(aspect for aspect in known if aspect in names)
