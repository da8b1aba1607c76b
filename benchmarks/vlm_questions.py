"""What it takes to have one clip judged by a model: calls, tokens, bytes and money for each way of asking.

python benchmarks/vlm_questions.py [--frames 49] [--height 480] [--width 832] [--grid 13 6 8]

Token counts are estimates that depend on sizes alone; bytes are those of a synthetic clip (a scene of the embedded
world, enlarged, with film grain), real clips differ.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from halovid.config.vlm import VlmConfig
from halovid.judges.vlm.plan import ModelPlan, plan_calls
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.records import Request
from halovid.world.render import render_scene
from halovid.world.scenes import sample_scene

WAYS = (
    ("boxes", "grid", 24),
    *(("patches", "grid", per_call) for per_call in (8, 16, 24, 48)),
    *(("patches", "tubes", per_call) for per_call in (8, 16, 24, 48)),
)
PROMPT = "A cat in a red coat walks over a wooden bridge in the rain, the camera follows slowly."


def main() -> None:
    """Prints a row for each way of asking."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--grid", type=int, nargs=3, default=(13, 6, 8))
    options = parser.parse_args()
    request = Request(make_clip(options.frames, options.height, options.width), PROMPT, "clip")
    table = Table(
        "way", "calls", "text tok.", "image tok.", "output tok.", "MB", "money", "s", title="per clip, one vote"
    )
    for strategy, show, per_call in WAYS:
        config = VlmConfig(strategy=strategy, show=show, patches_per_call=per_call, input_price=2.5, output_price=10.0)
        started = time.perf_counter()
        (plan,) = plan_calls(config, PatchGrid(*options.grid), LatentGeometry(4, 8, True), [request])
        way = strategy if strategy == "boxes" else f"{strategy}, {show}, {per_call} a call"
        table.add_row(way, *cells(plan), f"{time.perf_counter() - started:.1f}")
    Console(width=120).print(table)


def cells(plan: ModelPlan) -> list[str]:
    """The numbers of a plan."""
    counts = (plan.calls, plan.text_tokens, plan.picture_tokens, plan.output_tokens)
    return [*(f"{count:,}" for count in counts), f"{plan.picture_bytes / 1e6:.1f}", f"{plan.money:.3f}"]


def make_clip(frames: int, height: int, width: int) -> Tensor:
    """A synthetic clip of a real clip's size and about its detail: [3, F, H, W] in [-1, 1]."""
    scene = render_scene(sample_scene(91, "heldout"))
    clip = F.interpolate(scene[None], size=(frames, height, width), mode="trilinear")[0]
    return (clip + 0.02 * torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)


if __name__ == "__main__":
    main()
