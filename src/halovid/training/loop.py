"""The loop that aligns a generator, and its one step."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.utils.tensorboard import SummaryWriter

from halovid.config.run import AlignConfig
from halovid.maths.noise import timestep_weight
from halovid.store.errors import InputError, TrainingError
from halovid.store.files import atomic_path
from halovid.store.resumable import ResumableTraining
from halovid.store.runtime import console
from halovid.training.batches import batch_indices, draw_noise
from halovid.training.monitor import Monitor, Reading, parting
from halovid.training.objectives import Objective
from halovid.training.pair_errors import pair_errors
from halovid.training.pairs import PairBatch, PairSource
from halovid.training.parallel import OneProcess, Parallel
from halovid.training.policy import Policy, snapshot_folder


@dataclass(frozen=True)
class Alignment:
    """What an alignment is made of.

    folder: where checkpoints, snapshots, curves and the log go.
    """

    policy: Policy
    objective: Objective
    pairs: PairSource
    options: AlignConfig
    seed: int
    folder: Path
    parallel: Parallel = field(default_factory=OneProcess)


def train(alignment: Alignment, monitor: Monitor | None = None) -> None:
    """Trains to the last step, from the checkpoint on where there is one; exact to resume.

    Writes folder/log.jsonl, tensorboard/, snapshots/ and parts/training.safetensors.

    Raises:
        InputError: there are more processes than pairs in a batch.
        TrainingError: see `train_step`.
    """
    policy, options, folder = alignment.policy, alignment.options, alignment.folder
    leads = alignment.parallel.rank == 0  # the process that writes
    if options.batch_size < alignment.parallel.size:
        raise InputError(
            f"align.batch_size is {options.batch_size}: {alignment.parallel.size} processes share a batch, give each "
            f"at least one pair"
        )
    optimizer = AdamW(policy.parameters.values(), lr=options.learning_rate, weight_decay=options.weight_decay)
    base = monitor.observe(policy.model, 0) if monitor else None  # before a checkpoint is read: still the base
    training = ResumableTraining(
        folder / "parts" / "training.safetensors",
        {"policy": policy, "optimizer": optimizer},
        folder / "log.jsonl",
        writes=leads,
    )
    with SummaryWriter(folder / "tensorboard", purge_step=training.done) if leads else nullcontext() as board:
        for step in training.steps(options.steps, options.checkpoint_every, "align"):
            metrics = train_step(alignment, optimizer, step)
            done = step + 1
            if monitor and base and (done % options.sample_every == 0 or done == options.steps):
                metrics |= _watch(monitor, base, policy, done)
            if done in options.snapshots and leads:
                with policy.ema_weights():
                    policy.model.save_weights(snapshot_folder(folder, done))
            training.record(metrics)
            if board is not None:
                for name, value in metrics.items():
                    board.add_scalar(name, value, done)


def train_step(alignment: Alignment, optimizer: Optimizer, step: int) -> dict[str, float]:
    """One optimizer step and what to log of it: means over the whole batch.

    Raises:
        TrainingError: the loss is not finite; the batch is saved.
    """
    policy, options, parallel = alignment.policy, alignment.options, alignment.parallel
    indices = batch_indices(len(alignment.pairs), options.batch_size, step, alignment.seed)
    rows = parallel.slice(len(indices))
    batch = alignment.pairs.batch([indices[row] for row in rows])
    shape = batch.latents.shape[2:]
    draws = draw_noise(len(indices), shape, options.shared_noise, options.sigma, step, alignment.seed)
    noise, level = (draw[rows.start : rows.stop].to(batch.latents) for draw in draws)

    optimizer.zero_grad()
    metrics = _accumulate_gradients(alignment, batch, noise, level)
    if not parallel.all_true(bool(metrics["loss/total"].isfinite().all())):
        raise TrainingError(_save_bad_batch(alignment, batch, noise, level, step))
    for parameter in policy.parameters.values():
        if parameter.grad is not None:
            parameter.grad = parallel.mean(parameter.grad)
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters.values(), options.max_grad_norm)
    rate = options.learning_rate * min((step + 1) / max(options.warmup, 1), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    policy.update_ema()
    means = _means({name: parallel.gather(values) for name, values in metrics.items()})
    return means | {"train/grad_norm": norm.item(), "train/learning_rate": rate}


def _accumulate_gradients(alignment: Alignment, batch: PairBatch, noise: Tensor, level: Tensor) -> dict[str, Tensor]:
    """Adds the gradient of this process's pairs, part by part, and gives what to log: name -> [B].

    The parameters' gradients are of the mean over the whole batch once they are averaged over the processes.
    """
    policy, objective, options = alignment.policy, alignment.objective, alignment.options
    collected: dict[str, list[Tensor]] = {}
    for part in _split(len(batch), options.micro_batches):
        pairs = batch.rows(part)
        errors = pair_errors(policy, pairs, noise[part], level[part], objective.needs.reference)
        weight = timestep_weight(policy.model.noise, level[part], options.timestep_weight)
        loss, metrics = objective.loss(errors, pairs.margins, weight)
        loss = pairs.weight * loss
        (loss.sum() * alignment.parallel.size / options.batch_size).backward()
        for name, values in (metrics | {"loss/total": loss}).items():
            collected.setdefault(name, []).append(values.detach())
    return {name: torch.cat(values) for name, values in collected.items()}


def _split(count: int, parts: int) -> Iterable[Tensor]:
    """The numbers below `count` in so many runs; fewer when there are not as many numbers."""
    return torch.arange(count).tensor_split(min(parts, count))


def _means(metrics: dict[str, Tensor]) -> dict[str, float]:
    """The mean of each metric over the pairs that it says something of; metrics that say nothing are left out."""
    said = {name: values[~values.isnan()] for name, values in metrics.items()}
    return {name: values.mean().item() for name, values in said.items() if len(values)}


def _save_bad_batch(alignment: Alignment, batch: PairBatch, noise: Tensor, level: Tensor, step: int) -> str:
    """Saves the whole batch of a step that went wrong; the sentence that says so."""
    path = alignment.folder / f"bad_batch_{step}.safetensors"
    mine = batch.tensors() | {"noise": noise, "level": level}
    whole = {name: alignment.parallel.gather(value).contiguous() for name, value in mine.items()}
    if alignment.parallel.rank == 0:
        with atomic_path(path) as temporary:
            save_file(whole, temporary)
    return (
        f"the loss is not finite at step {step}; the batch is saved as {path}: look at it, or lower "
        f"align.learning_rate or the objective's weights and betas, and run again"
    )


def _watch(monitor: Monitor, base: Reading, policy: Policy, step: int) -> dict[str, float]:
    """What the monitor measures of the averaged weights; it warns when the reward and the other measures part."""
    with policy.ema_weights():
        now = monitor.observe(policy.model, step)
    sentences = parting(base, now)
    for sentence in sentences:
        console.print(f"align: {sentence}", style="yellow")
    return now.means() | {"monitor/measures that part": float(len(sentences))}
