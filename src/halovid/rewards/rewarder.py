"""The one way to reward clips: a run's own network, a released model and one behind a server, all behind `Rewarder`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from halovid.config.run import RunConfig
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.records import AspectRatings, PromptBatch, Refusal, Rewards, Showing
from halovid.rewards.data import prompt_inputs
from halovid.rewards.network import RewardNetwork, load_reward
from halovid.rewards.pretrained import check_model, model_identity
from halovid.rewards.released import ReleasedReward, ReleasedScore, UnscoredError, load_released
from halovid.rewards.released.served import ServedReward, served_identity
from halovid.rewards.scoring import crop_patches, rate_clips
from halovid.store.runtime import one_thread, resolve_device, resolve_dtype


class Rewarder(Protocol):
    """Says how good clips are, and where they are not.

    needs_conditioning: whether it reads `PromptBatch.conditioning`; the texts are always there.
    """

    needs_conditioning: bool

    def reward(self, video: Tensor, prompts: PromptBatch) -> Rewards:
        """The rewards of clips and of their patches, without gradients.

        A clip's reward is a function of this clip and its prompt alone, to rounding, whatever it is batched with. A
        clip that gets no finite reward is refused, and the others go on.

        Args:
            video: [B, 3, F, H, W] in [-1, 1], on any device.
            prompts: B rows.

        Raises:
            InputError: no clip at all can be rewarded before a setting is mended, as the key of a server.
        """


class NetworkRewarder:
    """The reward network that a run has trained: a reward is the mean rating over the aspects.

    Args:
        network: in evaluation mode, on the device on which it shall run.
        scoring: how it rates patches, a key of `scoring.SCORERS`.
    """

    def __init__(self, network: RewardNetwork, grid: PatchGrid, scoring: str = "dense") -> None:
        self.network, self._grid, self._scoring = network, grid, scoring
        self.needs_conditioning = not network.backbone.reads_text

    def reward(self, video: Tensor, prompts: PromptBatch) -> Rewards:
        """See `Rewarder.reward`."""
        network, device = self.network, self.network.shift.device
        inputs = prompt_inputs(network.backbone, prompts).to(device)
        rated = rate_clips(network, video.float().to(device), inputs, self._grid, self._scoring)
        clips, patches = (ratings.float().cpu() for ratings in rated)
        by_patch = dict(zip(network.spec.patch_aspects, patches.unbind(1), strict=True))
        ratings = {
            aspect: AspectRatings(of_clips, by_patch.get(aspect))
            for aspect, of_clips in zip(network.spec.aspects, clips.unbind(1), strict=True)
        }
        # the means in float64, so that the order in which aspects are added up does not show
        rewards = clips.double().mean(1).float(), patches.double().mean(1).float()
        return refuse_what_is_not_finite(Rewards(*rewards, (None,) * len(clips), ratings))


class ReleasedRewarder:
    """A released model, here or behind a server: its overall score of the clip, and of each patch as a clip of its own.

    That is the paper's way to reward patches, in P + 1 passes, or calls, for each clip.

    """

    needs_conditioning = False

    def __init__(self, released: ReleasedReward, grid: PatchGrid) -> None:
        self.released, self._grid = released, grid

    def reward(self, video: Tensor, prompts: PromptBatch) -> Rewards:
        """See `Rewarder.reward`; a clip is refused when the model scores it or one of its patches not at all."""
        clips = zip(video, prompts.texts, prompts.fps, strict=True)
        answers = [self._answer(clip, text, fps, prompts.geometry) for clip, text, fps in clips]
        refusals = tuple(answer if isinstance(answer, Refusal) else None for answer in answers)
        showings = [
            None if isinstance(answer, Refusal) else Showing(answer[0].frames, answer[0].policy, answer[0].model)
            for answer in answers
        ]

        def read(number: Callable[[ReleasedScore], float]) -> tuple[Tensor, Tensor]:
            """One number of every score: of the clips [B] and of their patches [B, t, h, w], NaN for refused clips."""
            missing = [torch.nan] * (1 + self._grid.num_patches)
            rows = [
                missing if isinstance(answer, Refusal) else [number(score) for score in answer] for answer in answers
            ]
            numbers = torch.tensor(rows, dtype=torch.float32)
            return numbers[:, 0], numbers[:, 1:].unflatten(1, self._grid.shape)

        ratings = {}
        for name in self.released.names:
            ratings[name] = AspectRatings(*read(lambda score, name=name: score.scores[name]))  # type: ignore[misc]
        rewards = read(lambda score: score.overall)
        return refuse_what_is_not_finite(Rewards(*rewards, refusals, ratings, tuple(showings)))

    def _answer(self, clip: Tensor, text: str, fps: float, geometry: LatentGeometry) -> list[ReleasedScore] | Refusal:
        """The scores of a clip [3, F, H, W] and of its patches, or why there are none."""
        try:
            scores = [self.released.score(clip, fps, text)]
            for patch in range(self._grid.num_patches):  # one crop at a time: each is as large as the clip
                with one_thread():  # several enlarge by other sums: not the pictures that a server has answered about
                    crop = crop_patches(clip, self._grid, geometry, only=patch)[0]
                scores.append(self.released.score(crop, fps, text))
        except UnscoredError as error:
            return Refusal(str(error), error.again)
        return scores


def refuse_what_is_not_finite(rewards: Rewards) -> Rewards:
    """The rewards with a refusal, and NaN throughout, in place of each clip that has a number that is not finite."""
    finite = rewards.clip.isfinite() & rewards.patches.flatten(1).isfinite().all(1)
    refusals = tuple(
        refusal or (None if is_finite else Refusal("the reward is not finite"))
        for refusal, is_finite in zip(rewards.refusals, finite.tolist(), strict=True)
    )
    refused = torch.tensor([refusal is not None for refusal in refusals], dtype=torch.bool)

    def blank(values: Tensor) -> Tensor:
        return values.masked_fill(refused.view(-1, *[1] * (values.dim() - 1)), torch.nan)

    return Rewards(
        blank(rewards.clip),
        blank(rewards.patches),
        refusals,
        {
            aspect: AspectRatings(blank(ratings.clip), None if ratings.patches is None else blank(ratings.patches))
            for aspect, ratings in rewards.ratings.items()
        },
        tuple(
            showing if refusal is None else None for showing, refusal in zip(rewards.showings, refusals, strict=False)
        ),
    )


def open_rewarder(config: RunConfig, run_dir: Path) -> Rewarder:
    """The rewarder that a recipe names: a released or served model, or else the network in RUN/reward.

    Raises:
        InputError: the model can't be read, or a package that its server needs is missing.
    """
    if config.score.server:
        return ReleasedRewarder(ServedReward(config.score.server), config.grid)
    device = resolve_device(config.device)
    if config.score.released:
        released = load_released(config.score.released, device, resolve_dtype(config.dtype, device))
        return ReleasedRewarder(released, config.grid)
    return NetworkRewarder(load_reward(run_dir / "reward").to(device), config.grid, config.score.scoring)


def check_rewarder(config: RunConfig) -> None:
    """Looks, before anything is run, whether the rewarder that a recipe names can be had; nothing is downloaded.

    Raises:
        InputError: the released model is neither a folder nor on the hub, or the server needs a package or a file.
    """
    if config.score.server:
        ServedReward(config.score.server)
    elif config.score.released:
        check_model(config.score.released)


def rewarder_identity(config: RunConfig) -> dict[str, Any]:
    """What rewards depend on besides the grid and the stage `reward`, as JSON values: for fingerprints of stages."""
    if config.score.server:
        return {"server": served_identity(config.score.server)}
    if config.score.released:
        return {"released": model_identity(config.score.released), "dtype": config.dtype}
    return {"scoring": config.score.scoring}
