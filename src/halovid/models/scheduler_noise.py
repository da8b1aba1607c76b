"""The noise process of a model, read off the scheduler of its pipeline."""

from __future__ import annotations

from typing import Any

from halovid.maths.noise import NoiseProcess
from halovid.store.errors import InputError

_KINDS = {"epsilon": "epsilon", "v_prediction": "v_prediction", "sample": "sample", "flow_prediction": "flow"}


def noise_from_scheduler(scheduler: Any) -> NoiseProcess:
    """The path that a diffusers scheduler samples along, backwards.

    Its own cumulative products are taken, which hold a rescaling to zero SNR (arXiv 2305.08891) or a shift of the SNR.

    Raises:
        InputError: the scheduler predicts something else, or does not tell its path.
    """
    config = scheduler.config
    name = type(scheduler).__name__
    predicts = "flow_prediction" if name.startswith("FlowMatch") else config.get("prediction_type")
    if config.get("use_flow_sigmas"):
        predicts = "flow_prediction"
    alphas = None if predicts == "flow_prediction" else getattr(scheduler, "alphas_cumprod", None)
    if predicts not in _KINDS or (alphas is None and predicts != "flow_prediction"):
        raise InputError(
            f"the pipeline's scheduler {name} with prediction_type {predicts!r} follows no noise path that is known: "
            f"use one of a flow, or a discrete one that predicts {', '.join(sorted(_KINDS))}"
        )
    return NoiseProcess(_KINDS[predicts], alphas, config.num_train_timesteps)  # type: ignore[arg-type]
