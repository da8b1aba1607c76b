"""What reading and measuring a clip of an embedded world costs, in milliseconds of one thread.

python benchmarks/measuring.py [--clips 32] [--world plain]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from halovid.measuring.plain import PlainInstrument
from halovid.records import ClipBatch, Conditioning
from halovid.store.video import read_video, write_video
from halovid.world.captions import write_caption
from halovid.world.corruptions import render_corrupted, sample_events
from halovid.world.inspector import GEOMETRY
from halovid.world.instruments import CriticInstrument, InspectorInstrument
from halovid.world.scenes import sample_scene
from halovid.world.worlds import WORLDS


def main() -> None:
    """Prints one line per step of measuring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--world", default="plain", choices=WORLDS)
    options = parser.parse_args()
    count, world = options.clips, WORLDS[options.world]
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / f"{seed}.mp4" for seed in range(count)]
        for seed, path in enumerate(paths):
            scene, rng = sample_scene(seed, "heldout", world), np.random.default_rng(seed)
            rows.append({"prompt_id": str(seed), "prompt": write_caption(scene.spec, rng)})
            write_video(path, render_corrupted(scene, sample_events(scene, rng, 0.5), rng), 8.0)
        read = timed("read", count, lambda: [read_video(path, world.clip_shape[1:]) for path in paths])
    video = torch.stack(read)
    nothing = Conditioning({"prompt_embeds": torch.zeros(1, 1, 1)})
    clips = ClipBatch(video, rows, GEOMETRY, world.patch_grid, lambda prompt_ids: nothing)
    for name, instrument in (
        ("inspector", InspectorInstrument()),
        ("plain", PlainInstrument()),
        ("critic", CriticInstrument()),
    ):
        timed(name, count, partial(instrument.measure, clips, lambda *_: None))


def timed(name: str, count: int, work: Callable[[], Any]) -> Any:
    """What `work` gives, the second time it is done; prints how long that took."""
    work()
    start = time.perf_counter()
    result = work()
    print(f"{name:>8} {1000 * (time.perf_counter() - start) / count:7.1f} ms per clip")  # noqa: T201
    return result


if __name__ == "__main__":
    main()
