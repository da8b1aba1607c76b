"""`Rewarder`, the protocol by which all code rewards clips, and its implementations.

These are the run's own network, and a released model that is loaded here or asked over HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from halovid.clips.folder import ClipFolder
from halovid.config.run import RunConfig
from halovid.maths.grid import LatentGeometry, PatchGrid
from halovid.models import Sampler
from halovid.records import AspectRatings, PromptBatch, Refusal, Rewards, Showing
from halovid.rewards.backbones import DenoiserSpec
from halovid.rewards.data import prompt_inputs
from halovid.rewards.hidden_states import HiddenStateReader, open_reader, read_latents
from halovid.rewards.network import WEIGHTS_FILE, RewardNetwork, load_reward
from halovid.rewards.pretrained import check_model, model_identity
from halovid.rewards.released import ReleasedReward, ReleasedScore, UnscoredError, load_released
from halovid.rewards.released.served import ServedReward, served_identity
from halovid.rewards.scoring import crop_patches, rate_clips
from halovid.store.files import file_identity
from halovid.store.runtime import one_thread, resolve_device, resolve_dtype
from halovid.store.work import Row, Skip


class Rewarder(Protocol):
    """Rates how good clips and their patches are.

    needs_conditioning: whether it reads `PromptBatch.conditioning`, which is None otherwise.
    """

    needs_conditioning: bool

    def reward(self, video: Tensor, prompts: PromptBatch) -> Rewards:
        """The rewards of clips and of their patches, without gradients.

        A clip's reward depends on this clip and its prompt alone, to rounding, not on the rest of the batch. A clip
        that gets no finite reward is refused; the others are rewarded nevertheless.

        Args:
            video: [B, 3, F, H, W] in [-1, 1], on any device.
            prompts: B rows.

        Raises:
            InputError: no clip can be rewarded before a setting is corrected, such as the key of a server.
        """


class NetworkRewarder:
    """Rewards clips with the network that a run has trained: a reward is the mean rating over the aspects.

    Args:
        network: in evaluation mode, on the device that it is to run on.
        scoring: how it rates patches, a key of `scoring.SCORERS`.
    """

    def __init__(self, network: RewardNetwork, grid: PatchGrid, scoring: str = "dense") -> None:
        self.network, self._grid, self._scoring = network, grid, scoring
        self.needs_conditioning = not network.backbone.reads_text

    def reward(self, video: Tensor, prompts: PromptBatch) -> Rewards:
        """See `Rewarder.reward`."""
        network, device = self.network, self.network.shift.device
        inputs = prompt_inputs(network.backbone, prompts).to(device)
        clip_ratings, patch_ratings = (
            ratings.float().cpu()
            for ratings in rate_clips(network, video.float().to(device), inputs, self._grid, self._scoring)
        )
        patches_of_aspect = dict(zip(network.spec.patch_aspects, patch_ratings.unbind(1), strict=True))
        ratings = {
            aspect: AspectRatings(clips, patches_of_aspect.get(aspect))
            for aspect, clips in zip(network.spec.aspects, clip_ratings.unbind(1), strict=True)
        }
        # means in float64, so that the order in which aspects are added up does not change the result
        rewards = clip_ratings.double().mean(1).float(), patch_ratings.double().mean(1).float()
        return refuse_what_is_not_finite(Rewards(*rewards, (None,) * len(video), ratings))


class DenoiserRewarder:
    """Rewards clips with heads on the hidden states of the generator's own denoiser, without looking at pixels.

    Args:
        network: as of `NetworkRewarder`, with backbone `denoiser`.
        reader: of the generator before any training.
    """

    needs_conditioning = True

    def __init__(self, network: RewardNetwork, grid: PatchGrid, reader: HiddenStateReader) -> None:
        self._heads, self._reader = NetworkRewarder(network, grid), reader
        self.model = reader.model

    def reward(self, video: Tensor, prompts: PromptBatch) -> Rewards:
        """See `Rewarder.reward`; the clips are encoded first."""
        return self.reward_latents(self.model.encode_video(video), prompts)

    def reward_latents(self, latents: Tensor, prompts: PromptBatch) -> Rewards:
        """The rewards of clips by their latents, [B, C, T, h, w], at the first of the network's noise levels."""
        assert prompts.conditioning is not None, "the denoiser reads conditionings"
        states = self._reader.read(latents, prompts.conditioning, self._reader.levels[0])
        return self._heads.reward(states, prompts)

    def reward_noisy(self, noisy: Tensor, prompts: PromptBatch, level: float) -> Rewards:
        """The rewards of clips that are still noisy, [B, C, T, h, w], as while they are sampled."""
        assert prompts.conditioning is not None, "the denoiser reads conditionings"
        levels = torch.full((len(noisy),), level, device=noisy.device)
        return self._heads.reward(self._reader.read_noisy(noisy, prompts.conditioning, levels), prompts)


class ReleasedRewarder:
    """Rewards clips with a released model, here or behind a server: by its overall score of the clip and of each crop.

    A patch is cropped and scored as a clip of its own, as in the HALO paper: 1 + P passes, or calls, for each clip.
    """

    needs_conditioning = False

    def __init__(self, released: ReleasedReward, grid: PatchGrid) -> None:
        self.released, self._grid = released, grid

    def reward(self, video: Tensor, prompts: PromptBatch) -> Rewards:
        """See `Rewarder.reward`; a clip is refused if the model gives no score to it or to one of its patches."""
        clips = zip(video, prompts.texts, prompts.fps, strict=True)
        answers = [self._score(clip, text, fps, prompts.geometry) for clip, text, fps in clips]
        refusals = tuple(answer if isinstance(answer, Refusal) else None for answer in answers)
        showings = [
            None if isinstance(answer, Refusal) else Showing(answer[0].frames, answer[0].policy, answer[0].model)
            for answer in answers
        ]

        def collect(value_of: Callable[[ReleasedScore], float]) -> tuple[Tensor, Tensor]:
            """One value of every score: of the clips [B] and of their patches [B, t, h, w], NaN for refused clips."""
            missing = [torch.nan] * (1 + self._grid.num_patches)
            rows = [
                missing if isinstance(answer, Refusal) else [value_of(score) for score in answer] for answer in answers
            ]
            values = torch.tensor(rows, dtype=torch.float32)
            return values[:, 0], values[:, 1:].unflatten(1, self._grid.shape)

        ratings = {}
        for name in self.released.names:
            ratings[name] = AspectRatings(*collect(lambda score, name=name: score.scores[name]))  # type: ignore[misc]
        rewards = collect(lambda score: score.overall)
        return refuse_what_is_not_finite(Rewards(*rewards, refusals, ratings, tuple(showings)))

    def _score(self, clip: Tensor, text: str, fps: float, geometry: LatentGeometry) -> list[ReleasedScore] | Refusal:
        """The scores of a clip [3, F, H, W] and then of each of its patches, or why it has none."""
        try:
            scores = [self.released.score(clip, fps, text)]
            for patch in range(self._grid.num_patches):  # one crop at a time: each is as large as the clip
                with one_thread():  # else pixels differ in rounding, and a server's kept answers are not found again
                    crop = crop_patches(clip, self._grid, geometry, only=patch)[0]
                scores.append(self.released.score(crop, fps, text))
        except UnscoredError as error:
            return Refusal(str(error), error.again)
        return scores


def reward_latents(model: Sampler, rewarder: Rewarder, latents: Tensor, prompts: PromptBatch) -> Rewards:
    """The rewards of clips that are there as latents [B, C, T, h, w]; decoded where the rewarder looks at pixels."""
    if isinstance(rewarder, DenoiserRewarder):
        return rewarder.reward_latents(latents, prompts)
    return rewarder.reward(model.decode_video(latents), prompts)


def reward_rows(
    rewarder: Rewarder, clips: ClipFolder, rows: Sequence[Row], prompts_of: ClipFolder, skip: Skip
) -> tuple[list[Row], Rewards | None]:
    """The rows of a clip folder whose clips can be read, and their rewards, None if there are none.

    Clips that can't be read, or that the rewarder refuses, are listed as skipped; a refused clip keeps its row.

    Args:
        prompts_of: the folder that holds the prompts' conditionings.
    """
    reward: Callable[[Tensor, PromptBatch], Rewards]
    if isinstance(rewarder, DenoiserRewarder):
        readable, values = read_latents(clips, rows, rewarder.model, skip)
        reward = rewarder.reward_latents
    else:
        readable, values = clips.readable(rows, skip)
        reward = rewarder.reward
    if values is None:
        return [], None
    rewards = reward(values, prompts_of.prompt_batch(readable, rewarder.needs_conditioning))
    skip_refused(readable, rewards, skip)
    return readable, rewards


def refuse_what_is_not_finite(rewards: Rewards) -> Rewards:
    """The rewards, in which each clip with a value that is not finite is refused and all its values are NaN."""
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


def skip_refused(rows: Sequence[Row], rewards: Rewards, skip: Skip) -> None:
    """Lists the clips that were refused as skipped."""
    for row, refusal in zip(rows, rewards.refusals, strict=True):
        if refusal is not None:
            skip(row["clip_id"], refusal.reason, refusal.again)


def open_rewarder(config: RunConfig, run_dir: Path) -> Rewarder:
    """The rewarder that a recipe names: a released, served or trained model, or else the network in RUN/reward.

    Raises:
        InputError: the model can't be read, or a package that its server needs is missing.
    """
    if config.score.server:
        return ReleasedRewarder(ServedReward(config.score.server), config.grid)
    device = resolve_device(config.device)
    if config.score.released:
        released = load_released(config.score.released, device, resolve_dtype(config.dtype, device))
        return ReleasedRewarder(released, config.grid)
    network = load_reward(config.score.trained or run_dir / "reward").to(device)
    if isinstance(network.spec.backbone, DenoiserSpec):
        return DenoiserRewarder(network, config.grid, open_reader(config, network.spec.backbone))
    return NetworkRewarder(network, config.grid, config.score.scoring)


def check_rewarder(config: RunConfig) -> None:
    """Looks, before anything is run, whether the rewarder that a recipe names can be had; nothing is downloaded.

    Raises:
        InputError: the released model is neither a folder nor on the hub, the server needs a package or a file, or the
            folder of the trained model holds none.
    """
    if config.score.trained:
        load_reward(config.score.trained)
    if config.score.server:
        ServedReward(config.score.server)
    elif config.score.released:
        check_model(config.score.released)


def rewarder_identity(config: RunConfig) -> dict[str, Any]:
    """What rewards depend on besides the grid and the stage `reward`, as JSON values for a stage's fingerprint."""
    if config.score.server:
        return {"server": served_identity(config.score.server)}
    if config.score.released:
        return {"released": model_identity(config.score.released), "dtype": config.dtype}
    weights = config.score.trained and config.score.trained / WEIGHTS_FILE
    trained = {"trained": file_identity(weights, "score.trained")} if weights else {}
    return {"scoring": config.score.scoring} | trained
