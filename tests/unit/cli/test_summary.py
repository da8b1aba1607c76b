"""The end of a run on the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from halovid.cli.summary import print_summary
from halovid.store.manifests import write_manifest
from halovid.store.tables import MEASURES, METRICS, write_table


def test_paths_can_be_copied_whatever_the_folder_is_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "a run of a long name [red] with brackets, longer than any terminal is wide"
    write_table(run_dir / "evaluate" / "metrics.parquet", METRICS.empty_table())
    write_table(run_dir / "evaluate" / "measures.parquet", MEASURES.empty_table())
    write_manifest(run_dir / "judge", {"skipped": [{"item": "a", "reason": "b"}]})
    print_summary(run_dir)
    lines = capsys.readouterr().out.splitlines()
    assert f"judge: 1 items skipped, listed in {run_dir / 'judge' / 'manifest.json'}" in lines
    assert lines[-1] == f"report: {run_dir / 'report' / 'report.html'}"
