"""What the terminal shows at the end of a run: the result table and where the report is."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from halovid.measuring.measures import KIND_PREFIX
from halovid.store.folders import read_manifest
from halovid.store.tables import METRICS, read_table


def print_summary(run_dir: Path) -> None:
    """Prints the comparison of base and aligned generator, what was skipped, and the report's path."""
    title = "base against aligned, held-out prompts"
    table = Table("measure", title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in ("base", "aligned", "difference", "95% interval"):
        table.add_column(column, justify="right", no_wrap=True)
    group = None
    for row in read_table(run_dir / "evaluate" / "metrics.parquet", METRICS).to_pylist():
        if row["measure"].startswith(KIND_PREFIX):
            continue
        if row["group"] != group:
            group = row["group"]
            table.add_section()
            table.add_row(f"[bold]{group}[/bold]")
        table.add_row(
            f"{row['measure']}{', ' if row['unit'] else ''}{row['unit']}",
            f"{row['base']:.3g}",
            f"{row['aligned']:.3g}",
            f"{row['difference']:+.3g}",
            f"{row['low']:+.3g} .. {row['high']:+.3g}",
        )
    console = Console()
    console.print(table)
    for folder in sorted(run_dir.iterdir()):
        manifest = read_manifest(folder) if folder.is_dir() else None
        if manifest and manifest["skipped"]:
            console.print(f"{folder.name}: {len(manifest['skipped'])} items skipped, listed in {folder}/manifest.json")
    console.print(f"report: {run_dir / 'report' / 'report.html'}", soft_wrap=True)
