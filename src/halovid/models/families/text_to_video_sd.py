"""Text-to-video models with a 3D UNet over the latents of single frames (ModelScope 1.7B, Zeroscope): epsilon.

The UNet of diffusers 0.42 lacks `load_lora_adapter`, so `TextToVideoSDPipeline.load_lora_weights` fails with any file;
with `diffusers.loaders.PeftAdapterMixin` among its bases it reads ours. `halovid merge` needs neither.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from halovid.config.run import GeneratorConfig
from halovid.models.family import Family, decode_frames, encode_frames, frame_geometry


def _encode(pipe: Any, prompts: list[str]) -> dict[str, Tensor]:
    """CLIP's states of 77 tokens, all of which the model attends to."""
    return {"prompt_embeds": pipe.encode_prompt(prompts, pipe.device, 1, do_classifier_free_guidance=False)[0]}


def _predict(
    pipe: Any, network: Any, noisy: Tensor, timestep: Tensor, tensors: dict[str, Tensor], config: GeneratorConfig
) -> Tensor:
    return network(noisy, timestep, tensors["prompt_embeds"], return_dict=False)[0]


FAMILY = Family(
    encode=_encode,
    predict=_predict,
    geometry=frame_geometry,
    denoisers=("unet",),
    encode_video=encode_frames,
    decode_video=decode_frames,
)
