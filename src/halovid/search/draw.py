"""How a clip of each prompt is drawn: sampled once, or searched for as section `evaluate` says."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from halovid.config.run import EvaluateConfig
from halovid.maths.seeds import derive_seed
from halovid.models import DiffusionModel, Sampler
from halovid.records import PromptBatch
from halovid.rewards.rewarder import DenoiserRewarder, Rewarder
from halovid.search.best_of import BestOf
from halovid.search.early_rejection import BestOfPromising
from halovid.search.repair import Repair
from halovid.store.errors import InputError

Draw = Callable[[PromptBatch, list[int]], Tensor]  # B prompts, B seeds -> latents of a clip of each, [B, C, T, h, w]


def draw_once(model: Sampler) -> Draw:
    """The draw that samples one clip of each prompt."""

    def draw(prompts: PromptBatch, seeds: list[int]) -> Tensor:
        assert prompts.conditioning is not None, "clips are sampled from conditionings"
        return model.sample(prompts.conditioning, seeds)

    return draw


def draw_with_search(model: DiffusionModel, rewarder: Rewarder, config: EvaluateConfig, steps: int) -> Draw:
    """The draw that keeps the best of `best_of` clips, and then repairs it if there is a section `repair`.

    Args:
        steps: of a sampling, where clips are rated early.

    Raises:
        InputError: clips are to be rated early, and the rewarder looks at finished clips only.
    """
    best: Draw = BestOf(model, rewarder, config.best_of, config.best_by)
    if config.reject is not None:
        if not isinstance(rewarder, DenoiserRewarder):
            raise InputError("evaluate.reject needs a reward model with backbone 'denoiser', which rates noisy clips")
        best = BestOfPromising(model, rewarder, config.reject, config.best_of, config.best_by, steps)
    if config.repair is None:
        return best
    repair = Repair(model, rewarder, config.repair)

    def draw(prompts: PromptBatch, seeds: list[int]) -> Tensor:
        clips, _ = repair(best(prompts, seeds), prompts, [derive_seed(seed, "repair") for seed in seeds])
        return clips.latents

    return draw
