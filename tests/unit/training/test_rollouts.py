"""Rounds of clips by the policy: what they depend on, what is kept on disk, and what a step gets of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from halovid.config.align import RolloutConfig
from halovid.config.recipes import make_config
from halovid.config.run import RunConfig
from halovid.maths.grid import LatentGeometry, PatchGrid, pool_cells
from halovid.models.random_sampling import sampling_levels
from halovid.records import Conditioning, Prompt, PromptBatch, Refusal, Rewards
from halovid.store.errors import InputError, TrainingError
from halovid.store.tables import ROLLOUTS, read_table
from halovid.training.group_task import GroupTask
from halovid.training.loop import Alignment, train
from halovid.training.objectives import make_group_objective
from halovid.training.parallel import OneProcess
from halovid.training.policy import Policy
from halovid.training.rollouts import Rollouts, random_step_numbers
from tiny_training import PROMPT, C, H, T, TinyModel, W

ALONE = OneProcess()


class SamplingModel(TinyModel):
    """`TinyModel` that also samples: the weights' mean plus noise of the seed."""

    geometry = LatentGeometry(4, 8, causal_first_frame=True)
    device = torch.device("cpu")
    latent_shape = (C, T, H, W)
    calls_per_step = 1

    def __init__(self) -> None:
        super().__init__()
        self.sampled: list[int] = []

    def sample(self, conditioning: Conditioning, seeds: list[int]) -> Tensor:
        self.sampled += seeds
        level = self.denoisers["transformer"].mix.weight.detach().mean()
        noise = [torch.randn(C, T, H, W, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(noise) + level

    def predict_guided(self, noisy: Tensor, level: Tensor, conditioning: Conditioning) -> Tensor:
        self.sampled += [0] * len(noisy)
        return self.predict(noisy, level, conditioning)

    def decode_video(self, latents: Tensor) -> Tensor:
        return latents


class MeanRewarder:
    """A clip is worth its mean; those whose first value is below a bound are refused."""

    needs_conditioning = False

    def __init__(self, bound: float = -torch.inf) -> None:
        self.bound = bound

    def reward(self, video: Tensor, prompts: PromptBatch) -> Rewards:
        refused = video[:, 0, 0, 0, 0] < self.bound
        patches = pool_cells(video.mean(1), PatchGrid(2, 2, 2)).masked_fill(refused[:, None, None, None], torch.nan)
        refusals = tuple(Refusal("too dark") if each else None for each in refused.tolist())
        return Rewards(patches.mean((1, 2, 3)), patches, refusals)


class FivePrompts:
    """What rollouts read of a clip folder."""

    prompts = tuple(Prompt(f"p{number}", f"text {number}") for number in range(5))

    def conditioning(self, prompt_ids: list[str]) -> Conditioning:
        numbers = torch.tensor([float(prompt_id[1:]) for prompt_id in prompt_ids])
        return Conditioning({"prompt_embeds": numbers[:, None, None].expand(-1, *PROMPT).contiguous()})


def make_recipe(
    objective: dict[str, Any] | None = None, rollouts: dict[str, Any] | None = None, **align: Any
) -> RunConfig:
    align = {
        "method": "full",
        "objective": objective or {"name": "gran_nft"},
        "rollouts": {"prompts": 3, "clips": 4, "updates": 2} | (rollouts or {}),
        "batch_size": 2,
        "steps": 6,
        "warmup": 0,
        "learning_rate": 0.05,
        "checkpoint_every": 2,
    } | align
    generator = {"num_inference_steps": 6, "batch_size": 5}
    return make_config({"grid": {"t": 2, "h": 2, "w": 2}, "align": align, "generator": generator})


def make_rollouts(folder: Path, config: RunConfig | None = None, bound: float = -torch.inf) -> tuple[Rollouts, Policy]:
    config = config or make_recipe()
    policy = Policy(SamplingModel(), config.align)  # type: ignore[arg-type]
    return Rollouts(policy, MeanRewarder(bound), FivePrompts(), config, folder), policy  # type: ignore[arg-type]


def test_a_round_has_groups_of_other_clips_of_some_of_the_prompts(tmp_path: Path) -> None:
    rollouts, policy = make_rollouts(tmp_path)
    rounds = [rollouts.groups(number, ALONE) for number in range(2)]
    for groups in rounds:
        assert groups.latents.shape == (3, 4, C, T, H, W) and groups.patch_rewards.shape == (3, 4, 2, 2, 2)
        torch.testing.assert_close(groups.clip_rewards, groups.latents.mean((2, 3, 4, 5)), atol=0.1, rtol=0)
    model: Any = policy.model
    assert len(set(model.sampled)) == 2 * 3 * 4, "every clip has a seed of its own"
    prompts = [round_of.conditioning.tensors["prompt_embeds"][:, 0, 0].tolist() for round_of in rounds]
    assert len(set(prompts[0])) == 3 and len(set(prompts[0] + prompts[1])) == 5, "an epoch visits all prompts"


def test_a_round_is_read_from_disk_where_it_is_whole(tmp_path: Path) -> None:
    first = make_rollouts(tmp_path)[0].groups(0, ALONE)
    again, policy = make_rollouts(tmp_path)
    second = again.groups(0, ALONE)
    assert not policy.model.sampled  # type: ignore[attr-defined]
    assert all(torch.equal(value, second.tensors()[name]) for name, value in first.tensors().items())
    path = tmp_path / "round-000000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    third = make_rollouts(tmp_path)[0].groups(0, ALONE)
    assert torch.equal(third.latents, first.latents), "what is damaged is made again"


def test_latents_are_kept_as_long_as_a_checkpoint_may_need_them(tmp_path: Path) -> None:
    rollouts, _ = make_rollouts(tmp_path, make_recipe(checkpoint_every=3))  # saved after every second round
    for number in range(5):
        rollouts.groups(number, ALONE)
    kept = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert kept == [f"round-{number:06d}.safetensors" for number in (2, 3, 4)]
    assert len(rollouts.table_rows(5)) == 5 * 3 * 4


def test_refused_clips_are_told_and_are_null_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = make_rollouts(tmp_path, bound=0.0)[0].groups(0, ALONE)
    refused = int(groups.clip_rewards.isnan().sum())
    assert 0 < refused < 12
    assert f"round 0: {refused} of 12 clips got no reward" in "".join(capsys.readouterr())
    table = read_table(tmp_path / "round-000000.parquet", ROLLOUTS)
    assert table["reward"].null_count == table["patch_rewards"].null_count == refused
    with pytest.raises(TrainingError, match="no clip of round 1 got a reward"):
        make_rollouts(tmp_path, bound=100.0)[0].groups(1, ALONE)


@pytest.mark.parametrize("shared", [False, True])
def test_clips_of_a_prompt_may_share_their_start(shared: bool, tmp_path: Path) -> None:
    changes = {"random_steps": 2, "shared_start": shared}
    groups = make_rollouts(tmp_path, make_recipe(rollouts=changes))[0].groups(0, ALONE)
    steps = groups.random_steps
    assert steps is not None and steps.before.shape == (3, 4, 2, C, T, H, W)
    first = steps.before[:, :, 0]
    assert torch.equal(first[:, :1].expand_as(first), first) == shared
    assert len(groups.latents.flatten(2).unique(dim=1)[0]) == 4


def test_random_steps_start_from_the_levels_that_are_allowed() -> None:
    levels = sampling_levels(10, 1.0)
    options = RolloutConfig(random_steps=2, lowest=0.45, highest=0.85)
    drawn = {tuple(random_step_numbers(levels, options, seed)) for seed in range(40)}
    assert drawn == {(2, 3), (2, 4), (2, 5), (3, 4), (3, 5), (4, 5)}
    with pytest.raises(InputError, match=r"random_steps is 5, and 4 steps.*0\.45\.\.0\.85"):
        random_step_numbers(levels, options.model_copy(update={"random_steps": 5}), 0)


def test_shared_starts_and_levels_are_checked() -> None:
    with pytest.raises(InputError, match="shared_start makes equal clips"):
        make_recipe(rollouts={"shared_start": True})
    with pytest.raises(InputError, match="must be below highest"):
        make_recipe(rollouts={"lowest": 0.9})


def make_alignment(folder: Path, config: RunConfig) -> Alignment:
    rollouts, policy = make_rollouts(folder / "parts" / "rollouts", config)
    task = GroupTask(policy, make_group_objective(config.align.objective), rollouts, config.align, 5)
    return Alignment(policy, task, config.align, folder)


@pytest.mark.parametrize(
    ("objective", "rollouts"),
    [
        ({"name": "gran_nft"}, {}),
        ({"name": "gran_awm", "lambda_drift": 1}, {}),
        ({"name": "gran_grpo"}, {"random_steps": 2}),
        ({"name": "plackett_luce"}, {"random_steps": 1, "shared_start": True}),
        ({"name": "gran_dpo"}, {}),
        ({"name": "sft"}, {}),
    ],
    ids=str,
)
def test_training_raises_the_reward_of_what_is_sampled(
    objective: dict[str, Any], rollouts: dict[str, Any], tmp_path: Path
) -> None:
    config = make_recipe(objective, rollouts, steps=8)
    alignment = make_alignment(tmp_path, config)
    before = {name: value.detach().clone() for name, value in alignment.policy.parameters.items()}
    train(alignment)
    rows = alignment.task.rollout_rows(8)  # type: ignore[attr-defined]
    assert len(rows) == 4 * 3 * 4 and [row["round"] for row in rows] == sorted(row["round"] for row in rows)
    changed = [not torch.equal(value, before[name]) for name, value in alignment.policy.parameters.items()]
    assert all(changed)
    assert all(value.isfinite().all() for value in alignment.policy.parameters.values())


@pytest.mark.parametrize("objective", [{"name": "gran_nft"}, {"name": "gran_grpo"}], ids=str)
@pytest.mark.parametrize("killed_at", [1, 3, 5])
def test_a_training_that_is_killed_within_a_round_ends_as_one_that_is_not(
    objective: dict[str, Any], killed_at: int, tmp_path: Path
) -> None:
    config = make_recipe(objective, {"random_steps": 1, "updates": 3}, checkpoint_every=1)
    whole = make_alignment(tmp_path / "whole", config)
    train(whole)
    killed = make_alignment(tmp_path / "killed", config)
    loss, steps = killed.task.loss, iter(range(killed_at))

    def die(batch: Any) -> Any:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return loss(batch)

    killed.task.loss = die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        train(killed)
    continued = make_alignment(tmp_path / "killed", config)
    train(continued)
    for name, value in whole.policy.parameters.items():
        assert torch.equal(continued.policy.parameters[name], value)
        assert torch.equal(continued.policy.ema[name], whole.policy.ema[name])
    assert (tmp_path / "killed/log.jsonl").read_bytes() == (tmp_path / "whole/log.jsonl").read_bytes()
    sampled = len(continued.policy.model.sampled)  # type: ignore[attr-defined]
    if objective["name"] == "gran_grpo":  # its training predicts as sampling does
        return
    assert sampled == (0 if killed_at >= 3 else 3 * 4 * 6), "the clips of a round that was begun are used again"


def test_what_a_training_costs_is_counted_in_calls(tmp_path: Path) -> None:
    task = make_alignment(tmp_path, make_recipe()).task
    sampling, training = 2 * 3 * 4 * 6, 3 * 2 * 4 * 2  # rounds, prompts, clips, steps; updates, groups, clips, models
    assert task.cost(3) == {"cost/denoiser_calls": sampling + training, "cost/rewarded_clips": 2 * 3 * 4}
