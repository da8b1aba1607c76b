"""Time and memory of pairing 100,000 clips with 64 patches each.

python benchmarks/pairing.py [--clips 100000] [--strategy best_worst]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from halovid.config.pairs import PairConfig
from halovid.config.run import RunConfig
from halovid.stages.pair import make_pairs, with_folder
from halovid.store.folders import StageFolder
from halovid.store.tables import PAIRS, REWARDS, patch_lists, read_table, write_table


def main() -> None:
    """Writes a rewards table, pairs it, and prints seconds and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--patches", type=int, default=64)
    parser.add_argument("--strategy", default="best_worst", choices=["best_worst", "all", "random"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "rewards.parquet", random_rewards(options.clips, options.candidates, options.patches))
        started = time.perf_counter()
        rewards = with_folder(read_table(folder / "rewards.parquet", REWARDS), "generate")
        config = RunConfig(pair=PairConfig(strategy=options.strategy))
        pairs = make_pairs(rewards, config, StageFolder(folder, "benchmark"))
        write_table(folder / "pairs.parquet", pairs)
        seconds = time.perf_counter() - started
        read_table(folder / "pairs.parquet", PAIRS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{options.strategy}: {options.clips} clips -> {len(pairs)} pairs in {seconds:.1f} s, peak {peak:.2f} GiB")  # noqa: T201


def random_rewards(clips: int, candidates: int, patches: int) -> pa.Table:
    """A rewards table of random numbers."""
    rng = np.random.default_rng(0)
    prompt = np.arange(clips) // candidates
    columns = [
        pa.array([f"p{p:06d}-{i % candidates:02d}" for i, p in enumerate(prompt)]),
        pa.array([f"p{p:06d}" for p in prompt]),
        pa.array(rng.normal(size=clips).astype(np.float32)),
        patch_lists(rng.normal(size=(clips, patches))),
    ]
    return pa.Table.from_arrays(columns, schema=REWARDS)


if __name__ == "__main__":
    main()
