"""The end of `halovid run` on the terminal: the table of results, the verdict, and the path of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from halovid.maths.numbers import show_interval, show_number
from halovid.measuring.headline import sample_size, verdict
from halovid.measuring.instruments import MEASURES
from halovid.store.manifests import read_manifest
from halovid.store.tables import MEASURES as MEASURES_TABLE
from halovid.store.tables import METRICS, read_table


def print_summary(run_dir: Path) -> None:
    """Prints the comparison of base and aligned generator, the verdict, what was skipped, and the report's path."""
    metrics = read_table(run_dir / "evaluate" / "metrics.parquet", METRICS).to_pylist()
    measured = read_table(run_dir / "evaluate" / "measures.parquet", MEASURES_TABLE)
    console = Console()
    console.print(_comparison(metrics))
    console.print(verdict(metrics, measured), highlight=False)
    for folder in sorted(run_dir.iterdir()):
        manifest = read_manifest(folder) if folder.is_dir() else None
        if manifest and manifest["skipped"]:
            listed = f"{len(manifest['skipped'])} items skipped, listed in {folder}/manifest.json"
            console.print(f"{folder.name}: {listed}", soft_wrap=True, markup=False)
    console.print(f"report: {run_dir / 'report' / 'report.html'}", soft_wrap=True, markup=False)


def _comparison(metrics: Sequence[Mapping[str, Any]]) -> Table:
    """The table of all measures except single kinds of defect, under one heading per group."""
    sizes = dict.fromkeys(sample_size(row) for row in metrics)
    title = f"base against aligned, held-out prompts ({'; '.join(sizes)})"
    table = Table("measure", title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in ("base", "aligned", "difference", "95% interval"):
        table.add_column(column, justify="right", no_wrap=True)
    group = None
    for row in metrics:
        measure = MEASURES[row["measure"]]
        if measure.defect_kind:
            continue
        if row["group"] != group:
            group = row["group"]
            table.add_section()
            table.add_row(f"[bold]{group}[/bold]")
        table.add_row(
            f"{measure.title}{', ' if measure.unit else ''}{measure.unit}",
            show_number(row["base"]),
            show_number(row["aligned"]),
            show_number(row["difference"], signed=True),
            show_interval(row["low"], row["high"]),
        )
    return table
