"""How well the reward model agrees with the truth, against the share of the patches that the judge is asked about.

python benchmarks/label_budget.py RECIPE.yaml FOLDER [--shares 0.1 0.2 0.4 0.7 1] [--pilot 0.1] [--seeds 0 1]

Each share is drawn at random, and once more chosen: a random pilot, then the rest where the pilot's reward model is
least certain (`halovid select`). Everything goes through the ordinary stages in FOLDER; label_budget.csv there has a
row per share, way, training seed and aspect.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from halovid.commands.label_budget import select_patches
from halovid.config.recipes import changed, load_config
from halovid.config.run import RunConfig
from halovid.stages import run_stage
from halovid.store.files import atomic_path
from halovid.store.tables import AGREEMENT, read_table

Row = dict[str, Any]


def main() -> None:
    """Measures all shares; what is complete is not done again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.1, 0.2, 0.4, 0.7, 1.0])
    parser.add_argument("--pilot", type=float, default=0.1)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="of the reward model's training")
    options = parser.parse_args()
    base = load_config(options.recipe)
    rows: list[Row] = []
    for seed in options.seeds:
        config = changed(base, {"reward": {"seed": seed}})
        for share in options.shares:
            rows += agreement(config, {"share": share}, options.folder, {"share": share, "way": "random", "seed": seed})
            if options.pilot < share < 1:
                pilot = changed(config, {"judge": {"share": options.pilot}})
                for stage in ("generate", "judge", "reward"):
                    run_stage(stage, pilot, options.folder / "run")
                questions = options.folder / f"questions-{seed}-{share}.parquet"
                select_patches(pilot, options.folder / "run", share, questions)
                own = {"share": share, "way": "chosen", "seed": seed}
                rows += agreement(config, {"questions": str(questions)}, options.folder, own)
            with atomic_path(options.folder / "label_budget.csv") as temporary:
                pyarrow.csv.write_csv(pa.Table.from_pylist(rows), temporary)


def agreement(config: RunConfig, judge: Row, folder: Path, own: Row) -> list[Row]:
    """The agreement of patch rewards with the truth when the judge is asked so."""
    asked = changed(config, {"judge": judge})
    for stage in ("generate", "judge", "reward", "baseline", "examine"):
        run_stage(stage, asked, folder / "run")
    found = read_table(folder / "run" / "examine" / "agreement.parquet", AGREEMENT).to_pylist()
    return [
        own | {name: row[name] for name in ("aspect", "spearman", "auroc")}
        for row in found
        if (row["scope"], row["scoring"]) == ("patch", "dense")
    ]


if __name__ == "__main__":
    main()
