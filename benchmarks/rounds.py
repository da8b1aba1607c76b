"""Several rounds of alignment: each starts from the generator that the one before it made.

python benchmarks/rounds.py RECIPE FOLDER [--rounds 3] [--later pair.sources=[good] ...]

Round k is an ordinary run, FOLDER/round-k: new candidates, new labels, the reward model trained on, new pairs. Its
generator is merged into FOLDER/generator-k, from which round k + 1 starts. All rounds are measured on the same prompts
and held against the base of the first; FOLDER gets the tables and figures that a study has. What is complete is not
done again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from halovid.commands.merge import merge
from halovid.config.recipes import changed, load_config
from halovid.config.run import RunConfig
from halovid.stages import STAGES, run_stage
from halovid.study.findings import BASE
from halovid.study.runner import cell_results, write_findings


def main() -> None:
    """Runs and measures all rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--later", nargs="*", default=[], help="settings of the rounds after the first")
    options = parser.parse_args()
    config, later = load_config(options.recipe), load_config(options.recipe, tuple(options.later))
    results: list[pa.Table] = []
    for number in range(1, options.rounds + 1):
        run_dir, merged = options.folder / f"round-{number}", options.folder / f"generator-{number}"
        results.append(run_round(config, run_dir, number))
        if not merged.exists():
            merge(config, run_dir, merged)
        next_one = {"generator": {"model": str(merged)}, "reward": {"start": str(run_dir / "reward")}}
        config = changed(later, next_one)
    steps = {f"round {number}": config.align.steps for number in range(1, options.rounds + 1)}
    told = " ".join([str(options.recipe), str(options.folder), f"--rounds {options.rounds}", "--later", *options.later])
    write_findings(pa.concat_tables(results), steps, "round 1", f"python benchmarks/rounds.py {told}", options.folder)


def run_round(config: RunConfig, run_dir: Path, number: int) -> pa.Table:
    """One run and what it measured, rows of tables.STUDY; its base only in the first round, all others have another."""
    for stage in STAGES:
        run_stage(stage, config, run_dir)
    found = cell_results(run_dir, f"round {number}", "default", 0, config.align.steps)
    return found if number == 1 else found.filter(pc.not_equal(found["model"], BASE))


if __name__ == "__main__":
    main()
