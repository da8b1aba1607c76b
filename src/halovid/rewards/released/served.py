"""Reward models that write their scores, behind an OpenAI-compatible server: VideoScore2 and UnifiedReward.

The frames go with the question as pictures; the answer's scores are read from its text. Answers are greedy, since
VideoScore2's scores vary much at its default temperature.
"""

from __future__ import annotations

import base64
import io
import os
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from halovid.config.reward import ServerConfig
from halovid.rewards.readers.text import fill
from halovid.rewards.released.base import ReleasedReward, UnscoredError
from halovid.rewards.released.qwen_frames import choose_by_rate
from halovid.store.errors import InputError
from halovid.store.files import hash_value

LOWEST, HIGHEST = 1, 5
_NUMBER = r"\W{0,4}(\d+(?:\.\d+)?)(?!\s*(?:-|to)\s*\d)"  # of "4", "**4**", "[4]", but not of the scale "1-5"


@dataclass(frozen=True)
class Family:
    """How a served model is asked and answers.

    names: of its scores.  patterns: what stands ahead of each score's number in an answer, as a regular expression.
    """

    names: tuple[str, ...]
    patterns: tuple[str, ...]
    question: str


FAMILIES = {
    "videoscore2": Family(
        ("visual_quality", "text_alignment", "physical_consistency"),
        ("visual quality", "text-to-video alignment", "physical/common-?sense consistency"),
        """Rate this generated video with a whole number from 1 (worst) to 5 (best) in three respects:
(1) visual quality: clarity, smoothness, artefacts
(2) text-to-video alignment: how well it follows the prompt
(3) physical/common-sense consistency: natural behaviour, plausible physics

Its prompt: {prompt}

Think first, then end with
visual quality: N; text-to-video alignment: N, physical/common-sense consistency: N
""",
    ),
    "unifiedreward": Family(
        ("alignment", "physics", "style"),
        (r"alignment score(?: \(1-5\))?", r"(?:physics|coherence) score(?: \(1-5\))?", r"style score(?: \(1-5\))?"),
        """These are frames of a generated video. Rate from 1 to 5 how well it matches its caption, how plausible its
physics are, and how appealing it looks. Answer in this form:
Alignment Score (1-5): X
Physics Score (1-5): Y
Style Score (1-5): Z

Text Caption: [{prompt}]
""",
    ),
}


class ServedReward(ReleasedReward):
    """A reward model of a server.

    Raises:
        InputError: the package openai is missing, or the question's file can't be read or lacks `{prompt}`.
    """

    def __init__(self, config: ServerConfig) -> None:
        try:
            import openai
        except ImportError as error:
            raise InputError("score.server needs the package openai: pip install 'halovid[vlm]'") from error
        self._family, self._config = FAMILIES[config.family], config
        self._question = _read_question(config) or self._family.question
        self._client = openai.OpenAI(
            base_url=config.base_url, api_key=os.environ.get(config.key_variable) or "none", timeout=config.timeout
        )
        self.names = self._family.names
        self.model_name = f"{config.family}({config.model})"
        mark = f"question {hash_value(self._question)[:12]}"
        self.policy = f"{config.frames_per_second:g} frames a second, ends included, as pictures; greedy; {mark}"

    def choose_frames(self, count: int, fps: float) -> list[int]:
        """So many frames a second."""
        return choose_by_rate(count, fps, self._config.frames_per_second)

    def rate(self, frames: Tensor, prompt: str) -> Tensor:
        """The scores in the model's answer, 1 to 5.

        Raises:
            InputError: the server refuses the key or does not know the model.
            UnscoredError: no answer had all scores, or the server gave none.
        """
        import openai

        messages: Any = [{"role": "user", "content": self._content(frames, prompt)}]
        last = "no answer"
        for _ in range(self._config.tries):
            try:
                answer = self._client.chat.completions.create(
                    model=self._config.model, messages=messages, temperature=0, max_tokens=1024
                )
            except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
                raise InputError(
                    f"score.server answers {error.status_code} for model {self._config.model!r}; check model, "
                    f"base_url and the key in {self._config.key_variable}"
                ) from error
            except (openai.APIError, ValueError) as error:  # the client has tried again what can pass
                raise UnscoredError(f"the server gave no answer ({type(error).__name__})") from error
            text = (answer.choices[0].message.content if answer.choices else None) or ""
            scores = read_scores(text, self._family)
            if scores is not None:
                return torch.tensor(scores)
            last = text[-200:]
        raise UnscoredError(f"{self._config.tries} answers without {len(self.names)} scores, the last: {last!r}")

    def overall(self, scores: Tensor) -> float:
        """The mean, from 1 to 5."""
        return scores.mean().item()

    def _content(self, frames: Tensor, prompt: str) -> list[dict[str, Any]]:
        """Frames and question of one message."""
        pictures = [{"type": "image_url", "image_url": {"url": _data_url(frame)}} for frame in frames]
        return [*pictures, {"type": "text", "text": fill(self._question, prompt=prompt)}]


def read_scores(answer: str, family: Family) -> list[float] | None:
    """The scores in an answer, by the last place that names each; None when one is missing or off the scale."""
    scores = []
    for pattern in family.patterns:
        found = re.findall(rf"{pattern}\s*:{_NUMBER}", answer, re.IGNORECASE)
        if not found or not LOWEST <= float(found[-1]) <= HIGHEST:
            return None
        scores.append(float(found[-1]))
    return scores


def _read_question(config: ServerConfig) -> str | None:
    """The authors' question from its file."""
    if config.question is None:
        return None
    try:
        text = config.question.read_text(encoding="utf-8").replace("{text_prompt}", "{prompt}")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"score.server.question {config.question} can't be read ({error})") from error
    if text.count("{prompt}") != 1:
        raise InputError(f"score.server.question {config.question} must hold {{prompt}} once")
    return text


def _data_url(frame: Tensor) -> str:
    """A frame [3, H, W] of bytes as a PNG in a URL."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame.permute(1, 2, 0).cpu().numpy()).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
