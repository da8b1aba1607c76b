"""The training loop that aligns a generator (`train`), and one optimizer step of it (`train_step`)."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.utils.tensorboard import SummaryWriter

from halovid.config.align import AlignConfig
from halovid.store.errors import InputError, TrainingError
from halovid.store.files import atomic_path
from halovid.store.resumable import ResumableTraining
from halovid.store.runtime import console
from halovid.training.monitor import Monitor, Reading, hacking_warnings
from halovid.training.parallel import OneProcess, Parallel
from halovid.training.policy import Policy, snapshot_folder
from halovid.training.task import Batch, TrainingTask


@dataclass(frozen=True)
class Alignment:
    """Everything that `train` works with.

    task: what is learned: pairs or rollouts, with an objective.
    folder: receives checkpoints, snapshots, TensorBoard curves and the log.
    """

    policy: Policy
    task: TrainingTask
    options: AlignConfig
    folder: Path
    parallel: Parallel = field(default_factory=OneProcess)


def train(alignment: Alignment, monitor: Monitor | None = None) -> None:
    """Trains the policy in place until `options.steps`, starting from the checkpoint where there is one.

    A training that was interrupted and continued gives the same weights, bit for bit, as one that was not. Writes
    log.jsonl, tensorboard/, snapshots/ and parts/training.safetensors (the checkpoint) in `alignment.folder`.

    Args:
        monitor: samples and measures clips every `options.sample_every` steps; None trains without.

    Raises:
        InputError: there are more processes than pairs or groups in a batch.
        TrainingError: see `train_step`.
    """
    policy, options, folder = alignment.policy, alignment.options, alignment.folder
    writes = alignment.parallel.rank == 0
    if options.batch_size < alignment.parallel.size:
        raise InputError(
            f"align.batch_size is {options.batch_size}: {alignment.parallel.size} processes share a batch, give each "
            f"at least one pair or group"
        )
    optimizer = AdamW(policy.parameters.values(), lr=options.learning_rate, weight_decay=options.weight_decay)
    base_reading = monitor.observe(policy.model, 0) if monitor else None  # the checkpoint is not loaded yet
    training = ResumableTraining(
        folder / "parts" / "training.safetensors",
        {"policy": policy, "optimizer": optimizer, "objective": alignment.task.objective},
        folder / "log.jsonl",
        writes=writes,
    )
    allowed = alignment.task.steps_between_checkpoints
    checkpoint_every = math.ceil(options.checkpoint_every / allowed) * allowed
    with SummaryWriter(folder / "tensorboard", purge_step=training.done) if writes else nullcontext() as board:
        for step in training.steps(options.steps, checkpoint_every, "align"):
            steps_done = step + 1
            metrics = train_step(alignment, optimizer, step) | alignment.task.cost(steps_done)
            if monitor and base_reading and (steps_done % options.sample_every == 0 or steps_done == options.steps):
                metrics |= _observe(monitor, base_reading, policy, steps_done)
            if steps_done in options.snapshots and writes:
                with policy.ema_weights():
                    policy.model.save_weights(snapshot_folder(folder, steps_done))
            training.record(metrics)
            if board is not None:
                for name, value in metrics.items():
                    board.add_scalar(name, value, steps_done)


def train_step(alignment: Alignment, optimizer: Optimizer, step: int) -> dict[str, float]:
    """Does one optimizer step, and returns the metrics to log: name -> mean over the items of the whole batch.

    Raises:
        TrainingError: the loss of an item is not finite; the weights are unchanged, and the batch is saved.
    """
    policy, options, parallel = alignment.policy, alignment.options, alignment.parallel
    batch = alignment.task.batch(step, parallel)
    optimizer.zero_grad()
    metrics = _accumulate_gradients(alignment, batch)
    if not parallel.all_true(bool(metrics["loss/total"].isfinite().all())):
        path = _save_bad_batch(alignment, batch, step)
        raise TrainingError(
            f"the loss is not finite at step {step}; the batch is saved as {path}: look at it, or lower "
            f"align.learning_rate or the objective's weights and betas, and run again"
        )
    for parameter in policy.parameters.values():
        if parameter.grad is not None:
            parameter.grad = parallel.mean(parameter.grad)
    grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters.values(), options.max_grad_norm)
    learning_rate = options.learning_rate * min((step + 1) / max(options.warmup, 1), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    policy.update_ema()
    means = _means({name: parallel.gather(values) for name, values in metrics.items()})
    alignment.task.objective.observe(means)
    return means | {"train/grad_norm": grad_norm.item(), "train/learning_rate": learning_rate}


def _accumulate_gradients(alignment: Alignment, batch: Batch) -> dict[str, Tensor]:
    """Runs forward and backward passes, micro-batch by micro-batch, and returns the metrics: name -> [B].

    B counts the items of this process. Once the gradients are averaged over the processes, they are those of the mean
    loss over the whole batch.
    """
    options, metrics = alignment.options, dict[str, list[Tensor]]()
    for rows in torch.arange(len(batch)).tensor_split(min(options.micro_batches, len(batch))):
        loss, metrics_of_items = alignment.task.loss(batch.rows(rows))
        (loss.sum() * alignment.parallel.size / options.batch_size).backward()
        for name, values in (metrics_of_items | {"loss/total": loss}).items():
            metrics.setdefault(name, []).append(values.detach())
    return {name: torch.cat(values) for name, values in metrics.items()}


def _means(metrics: dict[str, Tensor]) -> dict[str, float]:
    """The mean of each metric without its NaN entries; a metric that is NaN for all items is left out."""
    not_nan = {name: values[~values.isnan()] for name, values in metrics.items()}
    return {name: values.mean().item() for name, values in not_nan.items() if len(values)}


def _save_bad_batch(alignment: Alignment, batch: Batch, step: int) -> Path:
    """Saves the whole batch of a step, gathered from all processes; returns the file."""
    path = alignment.folder / f"bad_batch_{step}.safetensors"
    gathered = {name: alignment.parallel.gather(value).contiguous() for name, value in batch.tensors().items()}
    if alignment.parallel.rank == 0:
        with atomic_path(path) as temporary:
            save_file(gathered, temporary)
    return path


def _observe(monitor: Monitor, base_reading: Reading, policy: Policy, step: int) -> dict[str, float]:
    """The monitor's metrics of the averaged weights; prints a warning for each sign of reward hacking."""
    with policy.ema_weights():
        reading = monitor.observe(policy.model, step)
    warnings = hacking_warnings(base_reading, reading)
    for warning in warnings:
        console.print(f"align: {warning}", style="yellow")
    return reading.means() | {"monitor/warnings": float(len(warnings))}
