"""The commands about people's labels: `halovid label`, `halovid label export` and `halovid agreement`."""

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

if TYPE_CHECKING:  # imported by the commands that need it: the libraries come with halovid[people]
    from halovid.labelling.database import LabelDatabase
    from halovid.maths.grid import PatchGrid

RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a run whose clips are sampled")]
Source = Annotated[
    Literal["generate", "evaluate"],
    typer.Option("--of", help="label the candidates, or the clips of the base and the aligned model"),
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
    """`label RUN` serves; `label export` is a command of its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


label_app = typer.Typer(
    cls=_ServeByDefault,
    no_args_is_help=True,
    help="Have people label clips and their patches, on a page in the browser: `halovid label RUN`.",
)


@label_app.command()
def serve(
    run_dir: RunDir,
    source: Source = "generate",
    grid: Annotated[
        str | None,
        typer.Option(metavar="TxHxW", help="patches of a clip, such as 4x4x4; by default those of the run's judge"),
    ] = None,
    patch_aspects: Annotated[
        list[str] | None,
        typer.Option("--patch-aspect", help="aspect in which patches are marked (repeatable); by default two"),
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(min=0, max=1, help="share of the clips that everybody labels; 0.2 by default")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="who sees what in which order; 0 by default")] = None,
    database: Database = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free")] = 8765,
) -> None:
    """Serve the labelling page on 127.0.0.1. (`halovid label RUN` does the same.)

    Options that are left out are those that the labelling was begun with.
    """
    labels, stage = _part("labelling.database"), _part("labelling.material")
    store: LabelDatabase = labels.open_database(database, _existing(run_dir), source)
    store.create()
    begun = store.read_settings()
    given = {
        "grid": _read_grid(grid),
        "patch_aspects": _read_aspects(patch_aspects),
        "overlap": overlap,
        "seed": seed,
    }
    usual = {
        "grid": stage.judged_grid(run_dir),
        "patch_aspects": ("visual_quality", "temporal_consistency"),
        "overlap": 0.2,
        "seed": 0,
    }
    chosen = {name: getattr(begun, name, usual[name]) if value is None else value for name, value in given.items()}
    material = stage.load_material(run_dir, source, chosen["seed"])
    settings = labels.Settings(source=source, identity=material.identity, **chosen)
    store.fix_settings(settings)
    for clip_id, reason in list(material.unreadable.items())[:3]:
        console.print(f"left out: {clip_id}: {reason}", style="yellow", highlight=False)
    shape = "x".join(str(size) for size in settings.grid.shape)
    left_out = f", {len(material.unreadable)} left out" if material.unreadable else ""
    told = f"{len(material.clips)} clips{left_out}, {len(material.pairs)} pairs, grid {shape}; in {store.shown_url}"
    console.print(told, highlight=False, soft_wrap=True)
    _part("labelling.server").serve(_part("labelling.service").Labelling(store, material, settings), port)


@label_app.command()
def export(
    run_dir: RunDir,
    file: Annotated[Path, typer.Argument(help="the file to write: .parquet or .jsonl")],
    what: Annotated[
        Literal["labels", "annotators", "votes", "preferences"],
        typer.Option(
            help="labels: one per clip and aspect, the mean over people, for `judge: table`; annotators: the same for "
            "each person; votes: every rating and mark with its kind; preferences: compared pairs"
        ),
    ] = "labels",
    source: Source = "generate",
    database: Database = None,
) -> None:
    """Write people's labels as a table; docs/tables.md tells its columns."""
    from halovid.store.tables import write_rows

    exports = _part("labelling.export").EXPORTS
    store: LabelDatabase = _part("labelling.database").open_database(database, _existing(run_dir), source, new=False)
    settings = store.read_settings()
    answers = [own for own in store.finished() if own[1].item.is_pair == (what == "preferences")]
    table = exports[what](answers, settings) if settings else []
    if not len(table):
        raise InputError(f"{store.shown_url} holds nothing finished to export as {what}; label first: halovid label")
    write_rows(file, table)
    people = len({name for name, answer in answers if answer.state == "done"})
    skipped = sum(answer.state == "skipped" for _, answer in answers)
    console.print(f"{len(table)} rows of {people} people to {file}; {skipped} items were skipped")


def agreement(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="labels, rewards or preferences, .parquet or .jsonl. The first is the reference that the others are "
            "held against; where it has several annotators, they are held against each other too",
        ),
    ],
    clips: Annotated[
        Path | None,
        typer.Option(
            help="the run's generate/clips.parquet, which tells what clips share a prompt: pairs are formed within "
            "prompts then, and prompts are resampled. Tables of rewards and preferences tell it too"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="file for the table: .parquet or .jsonl")] = None,
    resamples: Annotated[int, typer.Option(min=0, help="of the 95% intervals; 0 leaves these out")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="of the resampling")] = 0,
) -> None:
    """Measure how well people, judges and reward models agree, per aspect, for clips and for patches."""
    from halovid.store.tables import CLIPS, read_table, write_rows

    measures = importlib.import_module("halovid.measuring.rater_agreement")  # only now: scipy takes a while
    prompts: dict[str, str] = {}
    if clips is not None:
        for row in read_table(clips, CLIPS).to_pylist():
            names = (prefix + row["clip_id"] for prefix in ("", "base/", "aligned/"))  # the latter of an evaluation
            prompts |= dict.fromkeys(names, row["prompt_id"])
    table = measures.agreement_table(files, prompts, resamples, seed)
    if out is not None:
        write_rows(out, table)
    measures.show_agreement(table)


def _part(name: str) -> ModuleType:
    """A module of this package that needs optional libraries; InputError when they are missing."""
    try:
        return importlib.import_module(f"halovid.{name}")
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("halovid"):
            raise
        raise InputError(f"labelling needs the package {error.name}: pip install 'halovid[people]'") from error


def _existing(run_dir: Path) -> Path:
    """The run's folder; InputError when there is none."""
    if not run_dir.is_dir():
        raise InputError(f"there is no run folder {run_dir}")
    return run_dir


def _read_grid(text: str | None) -> PatchGrid | None:
    """The grid of a text such as 4x4x4."""
    from halovid.maths.grid import PatchGrid

    if text is None:
        return None
    sizes = text.lower().split("x")
    if len(sizes) != 3 or not all(size.isascii() and size.isdigit() and 1 <= int(size) <= 64 for size in sizes):
        raise InputError(f"--grid is {text!r}; it must look like 4x4x4: patches in time, height and width, 1 to 64")
    return PatchGrid(*(int(size) for size in sizes))


def _read_aspects(names: list[str] | None) -> tuple[Aspect, ...] | None:
    """The aspects of these names, in their usual order."""
    known = _part("labelling.answers").ASPECTS
    if not names:
        return None
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise InputError(f"--patch-aspect {unknown[0]!r} is not known; aspects are {', '.join(known)}")
    return tuple(aspect for aspect in known if aspect in names)
