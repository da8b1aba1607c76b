"""The step against one written down plainly; the loop that is killed and goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.optim import AdamW

from halovid.store.errors import InputError, TrainingError
from halovid.training import loop
from halovid.training.batches import batch_indices, draw_noise
from halovid.training.loop import Alignment, train, train_step
from halovid.training.pair_errors import pair_errors
from halovid.training.parallel import OneProcess
from tiny_training import SEED, C, H, T, TinyPairs, W, make_alignment


def step_of(alignment: Alignment, step: int = 0) -> dict[str, float]:
    options = alignment.options
    parameters = alignment.policy.parameters.values()
    return train_step(alignment, AdamW(parameters, lr=1, weight_decay=options.weight_decay), step)


def weights_of(alignment: Alignment) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in alignment.policy.parameters.items()}


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("objective", [{"lambda_sft": 0.5}, {"name": "sft"}, {"name": "nft"}])
def test_a_step_is_adamw_on_the_weighted_mean_loss_of_the_batch(objective: dict[str, Any], tmp_path: Path) -> None:
    options = {"objective": objective, "max_grad_norm": 0.01, "weight_decay": 0.1}
    alignment, plain = (make_alignment(tmp_path, **options) for _ in range(2))
    metrics = step_of(alignment, 3)

    task = plain.task
    batch = task.pairs.batch(batch_indices(10, 4, 3, SEED))
    noise, level = draw_noise((4, 2), (C, T, H, W), True, plain.options.sigma, 3, SEED)
    errors = pair_errors(plain.policy, batch, noise, level, task.objective.needs.reference)
    losses, _ = task.objective.loss(errors, batch.margins, torch.ones(4))
    loss = (batch.weight * losses).mean()
    loss.backward()
    parameters = list(plain.policy.parameters.values())
    norm = torch.nn.utils.clip_grad_norm_(parameters, 0.01)
    AdamW(parameters, lr=0.01, weight_decay=0.1).step()

    assert metrics["loss/total"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["train/grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
    for name, value in weights_of(alignment).items():
        torch.testing.assert_close(value, plain.policy.parameters[name].detach())
        torch.testing.assert_close(
            alignment.policy.ema[name], 0.5 * value + 0.5 * make_alignment(tmp_path).policy.parameters[name].detach()
        )


@pytest.mark.parametrize("parts", [2, 3, 4, 9])
def test_accumulation_changes_only_the_rounding(parts: int, tmp_path: Path) -> None:
    whole, cut = make_alignment(tmp_path), make_alignment(tmp_path, micro_batches=parts)
    assert step_of(cut) == pytest.approx(step_of(whole), rel=1e-5)
    for name, value in weights_of(whole).items():
        torch.testing.assert_close(weights_of(cut)[name], value)


def test_pairs_whose_patches_all_tie_are_left_out_of_the_means_that_say_nothing_of_them(tmp_path: Path) -> None:
    indices = batch_indices(10, 4, 0, 5)
    known = step_of(make_alignment(tmp_path, TinyPairs()))
    some = step_of(make_alignment(tmp_path, TinyPairs(tied=indices[1:])))
    alone = make_alignment(tmp_path, TinyPairs(), batch_size=1)
    assert batch_indices(10, 1, 0, 5) == indices[:1]
    none = step_of(make_alignment(tmp_path, TinyPairs(tied=indices)))
    about_patches = {"rewards/patch_accuracies", "errors/winning_patches", "gaps/patch"}
    assert known.keys() - none.keys() == about_patches, "a mean over no pair is not logged"
    assert some["rewards/patch_accuracies"] == step_of(alone)["rewards/patch_accuracies"]
    for metrics in (known, some, none):
        assert all(math.isfinite(value) for value in metrics.values())


def test_sft_reads_no_rejected_clip_and_predicts_once_a_pair(tmp_path: Path) -> None:
    alignment = make_alignment(tmp_path, objective={"name": "sft"})
    metrics = step_of(alignment)
    assert alignment.policy.model.predicted == [4]
    assert metrics.keys() == {"loss/sft", "loss/total", "train/grad_norm", "train/learning_rate"}


def test_a_loss_that_is_not_finite_stops_before_anything_changes(tmp_path: Path) -> None:
    indices = batch_indices(10, 4, 0, 5)
    alignment = make_alignment(tmp_path, TinyPairs(broken=indices[2:3]), micro_batches=2)
    before = weights_of(alignment)
    with pytest.raises(TrainingError, match=r"not finite at step 0.*bad_batch_0\.safetensors"):
        step_of(alignment)
    assert all(torch.equal(value, before[name]) for name, value in weights_of(alignment).items())
    saved = load_file(tmp_path / "bad_batch_0.safetensors")
    assert saved["latents"].shape == (4, 2, C, T, H, W) and saved["latents"][2].isfinite().logical_not().any()
    assert [path.name for path in tmp_path.iterdir()] == ["bad_batch_0.safetensors"]


def test_the_rate_warms_up_and_snapshots_hold_the_average(tmp_path: Path) -> None:
    alignment = make_alignment(tmp_path, warmup=4, snapshots=[2, 5])
    train(alignment)
    rates = [line["train/learning_rate"] for line in log_of(tmp_path)]
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    assert alignment.policy.model.saved == [tmp_path / "snapshots" / name for name in ("000002", "000005")]
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("target", [None, 0.7])
@pytest.mark.parametrize("killed_at", [1, 2, 5])
def test_a_training_that_is_killed_ends_as_one_that_is_not(
    killed_at: int, target: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"checkpoint_every": 2, "objective": {"target_accuracy": target}}
    whole = make_alignment(tmp_path / "whole", **options)
    train(whole)

    def killed(alignment: Alignment, optimizer: AdamW, step: int) -> dict[str, float]:
        if step == killed_at:
            raise KeyboardInterrupt
        return train_step(alignment, optimizer, step)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(make_alignment(tmp_path / "killed", **options))
    continued = make_alignment(tmp_path / "killed", **options)
    train(continued)
    assert (tmp_path / "killed" / "log.jsonl").read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()
    for name, value in weights_of(whole).items():
        assert torch.equal(weights_of(continued)[name], value)
        assert torch.equal(continued.policy.ema[name], whole.policy.ema[name])


def test_more_processes_than_pairs_in_a_batch_are_refused(tmp_path: Path) -> None:
    parallel = OneProcess()
    parallel.size = 5
    with pytest.raises(InputError, match=r"align\.batch_size is 4: 5 processes"):
        train(make_alignment(tmp_path, parallel=parallel))
