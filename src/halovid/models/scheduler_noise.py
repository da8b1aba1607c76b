"""The noise process of a model, read off the scheduler of its pipeline."""

from __future__ import annotations

from typing import Any

from halovid.maths.noise import NoiseProcess
from halovid.store.errors import InputError

# `prediction_type` of diffusers -> kind of `NoiseProcess`
_KINDS = {"epsilon": "epsilon", "v_prediction": "v_prediction", "sample": "sample", "flow_prediction": "flow"}


def noise_from_scheduler(scheduler: Any) -> NoiseProcess:
    """The noise process whose reverse a diffusers scheduler samples.

    The alphas are the scheduler's own `alphas_cumprod`, which include a rescaling to zero terminal SNR
    (arXiv 2305.08891) or a shift of the SNR.

    Raises:
        InputError: the network predicts something else, or the scheduler has no `alphas_cumprod`.
    """
    config = scheduler.config
    name = type(scheduler).__name__
    is_flow = name.startswith("FlowMatch") or config.get("use_flow_sigmas")
    prediction_type = "flow_prediction" if is_flow else config.get("prediction_type")
    alphas = None if prediction_type == "flow_prediction" else getattr(scheduler, "alphas_cumprod", None)
    if prediction_type not in _KINDS or (alphas is None and prediction_type != "flow_prediction"):
        raise InputError(
            f"the pipeline's scheduler {name} with prediction_type {prediction_type!r} follows no noise path that is "
            f"known: use one of a flow, or a discrete one that predicts {', '.join(sorted(_KINDS))}"
        )
    return NoiseProcess(_KINDS[prediction_type], alphas, config.num_train_timesteps)  # type: ignore[arg-type]
