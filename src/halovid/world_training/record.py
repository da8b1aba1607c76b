"""Keeps what the trainings logged beside the recipes: the logs themselves and their curves as one picture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import matplotlib.pyplot as plt

TRAININGS = ("vae", "decoder", "text", "generator")


def record(work: Path, folder: Path) -> None:
    """Copies the logs of WORK's trainings to `folder` and draws them as curves.svg; a missing log is left out."""
    logs = {name: work / f"{name}.jsonl" for name in TRAININGS if (work / f"{name}.jsonl").exists()}
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, len(logs), figsize=(4 * len(logs), 3), squeeze=False, layout="constrained")
    for axis, (name, path) in zip(axes[0], logs.items(), strict=True):
        shutil.copyfile(path, folder / path.name)
        rows = {row["step"]: row for row in map(json.loads, path.read_text().splitlines())}  # later lines win
        for measure in sorted({key for row in rows.values() for key in row} - {"step", "seconds"}):
            axis.plot(list(rows), [row[measure] for row in rows.values()], label=measure)
        axis.set(title=name, xlabel="step")
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "curves.svg", metadata={"Date": None})
    plt.close(figure)
