"""Defects against compute without training: best-of-N by clip, by patch, and repair, of one generator.

python benchmarks/search_curves.py RECIPE RUN OUT
    [--tries 16] [--start 2] [--rounds 12] [--prompts 64] [--weights FOLDER]

Samples `tries` clips of each held-out prompt of the recipe, and repairs the best of the first `start` of them in some
rounds. The reward model is RUN's. OUT gets curves.csv (a row per method and number of calls, with 95% intervals over
the prompts), and curves.svg.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from halovid.clips.prompts import load_prompts
from halovid.config.recipes import load_config
from halovid.config.run import RunConfig
from halovid.config.search import RepairOptions
from halovid.maths.seeds import clip_seed, derive_seed
from halovid.maths.statistics import bootstrap
from halovid.measuring.instruments import MEASURES, open_instruments
from halovid.models import PARTS, DiffusionModel, open_model
from halovid.records import ClipBatch, Conditioning, Prompt, PromptBatch
from halovid.rewards.rewarder import Rewarder, open_rewarder
from halovid.search.repair import Repair
from halovid.search.rewarding import reward_latents
from halovid.store.files import atomic_path
from halovid.store.runtime import batches, progress

Points = dict[tuple[str, float], list[dict[str, float]]]  # (method, denoiser calls a clip) -> measures of each clip
_MEASURES = ("defective_sprite_patches", "motion", "text_alignment", "critic_defect_probability")


class Search:
    """Both searches on batches of prompts, with everything that they need opened once."""

    def __init__(self, config: RunConfig, run_dir: Path, options: argparse.Namespace) -> None:
        self._config, self._options = config, options
        self._model: DiffusionModel = open_model(config, PARTS)
        if options.weights:
            self._model.load_weights(options.weights)
        self._rewarder: Rewarder = open_rewarder(config, run_dir)
        self._instruments = open_instruments(["inspector", "critic"], config, run_dir)
        self._calls = config.generator.num_inference_steps * self._model.calls_per_step
        self._repair = (config.evaluate.repair or RepairOptions()).model_copy(update={"rounds": 1})

    def points(self, prompts: Sequence[Prompt]) -> Points:
        """What every method makes of some prompts."""
        conditioning = Conditioning.cat([self._model.encode_prompts([prompt.text]) for prompt in prompts])
        batch = PromptBatch.of_prompts(prompts, conditioning, self._config.generator.fps, self._model.geometry)
        seeds = [clip_seed(self._config.seed, prompt.prompt_id, 0) for prompt in prompts]
        tries = [self._model.sample(conditioning, [seed + k for seed in seeds]) for k in range(self._options.tries)]
        rewards = [reward_latents(self._model, self._rewarder, latents, batch) for latents in tries]
        best = {
            (name, count * self._calls): torch.stack(values[:count]).argmax(0).tolist()
            for name, values in (
                ("best by clip", [reward.clip for reward in rewards]),
                ("best by patch", [reward.patch_means for reward in rewards]),
            )
            for count in _powers_of_two(self._options.tries)
        }
        chosen = sorted({(row, k) for tries_of in best.values() for row, k in enumerate(tries_of)})
        measured = self._measure(
            torch.stack([tries[k][row] for row, k in chosen]), [prompts[row] for row, _ in chosen], conditioning
        )
        values_of = dict(zip(chosen, measured, strict=True))
        found: Points = {
            point: [values_of[row, k] for row, k in enumerate(tries_of)] for point, tries_of in best.items()
        }
        start = torch.stack([reward.patch_means for reward in rewards[: self._options.start]]).argmax(0)
        latents = torch.stack(tries)[start, torch.arange(len(prompts))]
        return found | self._repaired(latents, batch, prompts, seeds)

    def _repaired(self, latents: Tensor, batch: PromptBatch, prompts: Sequence[Prompt], seeds: list[int]) -> Points:
        """The clips after each round of repair; clips without a defective region stay as they are."""
        repair, found = Repair(self._model, self._rewarder, self._repair), Points()
        calls, measured = np.full(len(prompts), float(self._options.start * self._calls)), None
        for number in range(1, self._options.rounds + 1):
            clips, rounds = repair(latents, batch, [derive_seed(seed, "repair", number) for seed in seeds])
            for done in rounds:
                calls[done.clip] += done.denoiser_calls
            if measured is None or not torch.equal(clips.latents, latents):
                measured = self._measure(clips.latents, prompts, batch.conditioning)
            latents = clips.latents
            found["repair", number] = [
                values | {"calls": float(cost)} for values, cost in zip(measured, calls, strict=True)
            ]
        return found

    def _measure(
        self, latents: Tensor, prompts: Sequence[Prompt], conditioning: Conditioning | None
    ) -> list[dict[str, float]]:
        assert conditioning is not None
        row_of = {prompt_id: row for row, prompt_id in enumerate(dict.fromkeys(p.prompt_id for p in prompts))}
        rows = [
            {"clip_id": p.prompt_id, "prompt_id": p.prompt_id, "prompt": p.text, "fps": self._config.generator.fps}
            for p in prompts
        ]

        def conditioning_of(prompt_ids: Sequence[str]) -> Conditioning:
            return conditioning.rows([row_of[prompt_id] for prompt_id in prompt_ids])

        clips = ClipBatch(
            self._model.decode_video(latents), rows, self._model.geometry, self._config.grid, conditioning_of
        )
        values: dict[str, Tensor] = {}
        for instrument in self._instruments:
            values |= instrument.measure(clips, lambda *skipped: None)
        return [{name: values[name][row].item() for name in _MEASURES} for row in range(len(prompts))]


def _powers_of_two(most: int) -> list[int]:
    return [2**power for power in range(most.bit_length()) if 2**power <= most]


def main() -> None:
    """Measures both searches, and writes the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tries", type=int, default=16)
    parser.add_argument("--start", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    config = load_config(options.recipe, tuple(options.set))
    torch.set_num_threads(config.threads or torch.get_num_threads())
    prompts = load_prompts(config.evaluate.prompts)[0][: options.prompts]
    search, points = Search(config, options.run, options), Points()
    with progress("search", len(prompts)) as advance:
        for batch in batches(prompts, config.generator.batch_size):
            for key, values in search.points(batch).items():
                points.setdefault(key, []).extend(values)
            advance(len(batch))
    rows = [_row(method, calls, values) for (method, calls), values in points.items()]
    _write(options.out, rows)


def _row(method: str, number: float, clips: Sequence[dict[str, float]]) -> dict[str, float | str]:
    calls = np.mean([clip.get("calls", number) for clip in clips])
    row: dict[str, float | str] = {"method": method, "denoiser_calls": float(calls), "prompts": len(clips)}
    for name in _MEASURES:
        interval = bootstrap([clip[name] for clip in clips])
        row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row


def _write(folder: Path, rows: Sequence[dict[str, float | str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "curves.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), _MEASURES[:2], strict=True):
        for method in dict.fromkeys(row["method"] for row in rows):
            line = [row for row in rows if row["method"] == method]
            axes.plot([row["denoiser_calls"] for row in line], [row[name] for row in line], marker="o", label=method)
        axes.set_xlabel("denoiser calls a clip")
        axes.set_ylabel(f"{MEASURES[name].title}, {MEASURES[name].unit}")
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    with atomic_path(folder / "curves.svg") as temporary:
        figure.savefig(temporary, format="svg")


if __name__ == "__main__":
    main()
