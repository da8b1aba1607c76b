"""VideoReward (VideoAlign, Qwen2-VL 2B): visual quality, motion quality and text alignment, normalised.

The folder has model_config.json {data_config, model_config, peft_lora_config, inference_config} and
checkpoint-<step>/ with model.pth, or with adapter_model.safetensors and non_lora_state_dict.pth. The base model that
`model_name_or_path` names gives configuration and tokenizer, and for the second layout the weights underneath.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halovid.rewards.pretrained import load_base, load_tokenizer, local_folder, make_base
from halovid.rewards.readers.qwen import QwenReader
from halovid.rewards.readers.text import fill, plain_text
from halovid.rewards.released.base import Head, LocalReward, Start, question_of
from halovid.rewards.released.qwen_frames import choose_by_rate, read_clip, spread
from halovid.rewards.released.settings import VideoRewardSettings, read_settings
from halovid.rewards.released.weights import assign, merge_lora, read_pickled, read_safetensors
from halovid.store.errors import InputError

CONFIG = "model_config.json"
KINDS = frozenset({"qwen2_vl"})
_FPS, _LARGEST = 2.0, 448 * 448  # frames a second, and pixels that a frame may have, unless the settings say otherwise
TOKENS = ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")
# the model is causal: what stands at a token has read only what comes before it, so the prompt comes first
QUESTION = """You are asked to rate a video that was made by a text-to-video model.
The prompt is: {prompt}
Visual quality: is each frame clear, plausible, well composed and safe to look at? Rating: <|VQ_reward|>
Motion quality: is the motion stable, plausible, fluent and present? Rating: <|MQ_reward|>
Text alignment: do subject, motion, surroundings, style and camera follow the prompt? Rating: <|TA_reward|>
"""
_OUR_ASPECTS = ("visual_quality", "temporal_consistency", "text_alignment")


class VideoReward(LocalReward):
    """VideoReward from its folder, from the checkpoint of the latest step.

    Raises:
        InputError: the folder is not laid out as released, its settings are others, or its weights do not fit exactly.
    """

    names = ("VQ", "MQ", "TA")

    def __init__(self, folder: Path, name: str, device: torch.device, dtype: torch.dtype) -> None:
        self.model_name = name
        settings = read_settings(folder / CONFIG, VideoRewardSettings)
        self._data = settings.data
        base = _base_of(folder, settings)
        self._tokenizer = load_tokenizer(base)
        self._tokenizer.add_special_tokens(
            {"additional_special_tokens": list(TOKENS)}, replace_extra_special_tokens=False
        )
        self._token_ids = self._tokenizer.convert_tokens_to_ids(list(TOKENS))
        model, self._weight = _load_weights(folder, base, settings, len(self._tokenizer), dtype)
        self._model = model.eval().to(device)
        self._reader = QwenReader(self._model, self._tokenizer, sequential=True)
        self._question, mark = question_of(folder, QUESTION, ("{prompt}", *TOKENS))
        constants = settings.inference
        self._mean = torch.tensor([getattr(constants, f"{name}_mean", 0.0) for name in self.names])
        self._std = torch.tensor([getattr(constants, f"{name}_std", 1.0) for name in self.names])
        number, self._fps = self._data.num_frames, self._data.fps or _FPS
        rate = f"{number} frames" if number else f"{self._fps:g} frames a second"
        normalised = "normalised" if constants else "not normalised"
        self._largest = self._data.max_frame_pixels or _LARGEST
        self.policy = f"{rate}, ends included, at most {self._largest} pixels a frame; {normalised}; {mark}"

    def choose_frames(self, count: int, fps: float) -> list[int]:
        """Two frames a second, or as many as the release says."""
        if number := self._data.num_frames:
            return spread(count, max(2, min(round(number / 2) * 2, count // 2 * 2)))
        return choose_by_rate(count, fps, self._fps)

    def rate(self, frames: Tensor, prompt: str) -> Tensor:
        """The three normalised scores, each read at a token of its own."""
        question = fill(self._question, prompt=plain_text(self._tokenizer, prompt))
        ids, _, hidden = read_clip(self._reader, self._tokenizer, frames, self._largest, question, self._model.device)
        states = torch.stack([hidden[0, ids[0] == token][0].float() for token in self._token_ids])
        raw = (states * self._weight.to(states)).sum(1)  # row k of the head at token k
        return (raw.cpu() - self._mean) / self._std

    def overall(self, scores: Tensor) -> float:
        """The sum."""
        return scores.sum().item()

    def start(self) -> Start:
        """Its weights and head, whose normalised scores of -2 to 2 become ratings of 1 to 5.

        Its question shows the clip first, the one asked in a training shows the prompt first (see
        `backbones.language`), so the first ratings are near its scores but not equal to them.
        """
        zero = torch.zeros(len(TOKENS))
        head = Head(self._weight, zero, _OUR_ASPECTS, 3 - self._mean / self._std, 1 / self._std)
        return Start(self._model, self._tokenizer, None, head, sequential=True)


def base_folder(folder: Path) -> Path:
    """The folder of the base model: inside the release, or wherever its settings say.

    Raises:
        InputError: see `read_settings` and `local_folder`.
    """
    return _base_of(folder, read_settings(folder / CONFIG, VideoRewardSettings))


def _base_of(folder: Path, settings: VideoRewardSettings) -> Path:
    name = settings.model.model_name_or_path
    return folder / name if (folder / name).is_dir() else local_folder(name)


def _load_weights(
    folder: Path, base: Path, settings: VideoRewardSettings, vocabulary: int, dtype: torch.dtype
) -> tuple[Any, Tensor]:
    """The model with all adapters merged, and the head as one row per score, [3, D] float32."""
    checkpoint = _latest(folder)
    if (checkpoint / "model.pth").exists():
        state = _renamed(read_pickled(checkpoint / "model.pth"))
        model = make_base(str(base), KINDS, dtype)
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    else:
        model = load_base(str(base), KINDS, dtype)
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
        state = model.state_dict()
        not_adapted = _renamed(read_pickled(checkpoint / "non_lora_state_dict.pth"))
        state |= not_adapted | _renamed(read_safetensors(checkpoint / "adapter_model.safetensors"))
    lora = settings.lora
    state = merge_lora(state, lora.lora_r, lora.lora_alpha, lora.use_rslora, str(checkpoint))
    head = state.pop("rm_head.weight", None)
    state.pop("lm_head.weight", None)
    shape = (settings.model.output_dim, model.config.get_text_config().hidden_size)
    if head is None or head.shape != shape:
        stored = "missing" if head is None else tuple(head.shape)
        raise InputError(f"{checkpoint}: rm_head.weight is {stored}; it must be {shape}")
    assign(model, state, str(checkpoint))
    return model, head.float().expand(len(TOKENS), -1)


def _latest(folder: Path) -> Path:
    """The checkpoint folder of the latest step."""
    steps = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")}
    numbered = {path: int(step) for path, step in steps.items() if step.isdigit()}
    if not numbered:
        raise InputError(f"{folder} holds no checkpoint-<step> folder; download the model again")
    latest = max(numbered, key=lambda path: numbered[path])
    if not (latest / "model.pth").exists() and not (latest / "adapter_model.safetensors").exists():
        raise InputError(f"{latest} holds neither model.pth nor adapter_model.safetensors; download the model again")
    return latest


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with names of today's transformers model without a head; releases have those of older ones and peft."""
    renamed = {}
    for name, value in state.items():
        name = name.removeprefix("base_model.model.")
        inner = name.removeprefix("model.")
        if inner != name and not inner.startswith(("visual.", "language_model.")):
            inner = f"language_model.{inner}"
        renamed[inner] = value
    return renamed
