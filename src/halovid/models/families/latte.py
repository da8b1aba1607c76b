"""Latte: a transformer over the latents of single frames that predicts epsilon, and a variance that is not used.

Its pipeline reads a prompt alone without padding, and prompts of a batch with zeros up to 120 tokens, all of which the
network attends to. Here a clip must not depend on its batch, so all prompts are read in the second way.

Diffusers 0.42 has no loader of adapters for it: a trained adapter is used after `halovid merge`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.models.family import (
    Family,
    call_arguments,
    decode_frames,
    encode_frames,
    frame_geometry,
    read_settings,
    without_prompt,
)

_FRAMES = 16  # LatteTransformer3DModel's default


def _encode(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """T5's states of 120 tokens, zero after a prompt's end."""
    pairs = [*prompts, ""]  # the pipeline fills up the prompts of a batch, so there must be more than one
    states, _ = pipe.encode_prompt(pairs, do_classifier_free_guidance=False, device=pipe.device)
    return {"prompt_embeds": states[:-1]}


def _encode_negative(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """T5's states of 120 tokens with those after a prompt's end, as the pipeline encodes negative prompts."""
    states, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, device=pipe.device, mask_feature=False)
    return {"prompt_embeds": states}


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    output = network(noisy, timestep, tensors["prompt_embeds"], return_dict=False)[0]
    return output[:, : noisy.shape[1]]  # the other half is the variance


def _call(config: GeneratorConfig) -> dict[str, Any]:
    """Texts are taken as they are: cleaning them would depend on the packages that are installed.

    Tensors are taken as they are too: the pipeline would take those of several prompts for one that is not padded.
    """
    arguments = call_arguments(config)
    frames = arguments.pop("num_frames")
    return arguments | {"video_length": frames, "clean_caption": False, "mask_feature": False}


def _problem(folder: Path, config: GeneratorConfig) -> str | None:
    settings = read_settings(folder, "transformer/config.json")
    frames = settings.get("video_length", _FRAMES)
    if config.num_frames != frames:
        return f"makes clips of {frames} frames: generator.num_frames is {config.num_frames}"
    return None


FAMILY = Family(
    encode=_encode,
    predict=_predict,
    geometry=frame_geometry,
    side_multiple=2,
    encode_video=encode_frames,
    decode_video=decode_frames,
    call=_call,
    arguments=without_prompt,
    encode_negative=_encode_negative,
    problem=_problem,
)
