"""align: preference pairs -> aligned generator, by Gran-DPO.

    halovid align RECIPE.yaml RUN

Reads RUN/generate, RUN/pair, as its pairs need them RUN/good and RUN/restore, and to watch the training RUN/reward,
unless a released or served model gives the rewards.
Writes RUN/align: weights/ (a LoRA for diffusers' `load_lora_weights`, or the whole transformer), snapshots/,
tensorboard/, samples/*.mp4, log.jsonl.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from halovid.clips.folder import ClipFolder, Row
from halovid.config.run import RunConfig
from halovid.maths.grid import LatentGeometry
from halovid.maths.losses import Margins, PairErrors, gran_dpo_loss, squared_error_map
from halovid.maths.noise import sample_sigma, timestep_weight
from halovid.maths.seeds import clip_seed, step_seed
from halovid.models import Generator, model_identity, open_generator
from halovid.rewards.rewarder import open_rewarder, rewarder_identity
from halovid.stages import STAGES
from halovid.store.checkpoint import load_checkpoint, save_checkpoint
from halovid.store.errors import InputError, TrainingError
from halovid.store.files import write_text
from halovid.store.folders import StageFolder, open_stage
from halovid.store.runtime import console, progress, resolve_device
from halovid.store.tables import PAIRS, read_table
from halovid.training.monitor import Monitor, Reading, parting
from halovid.training.policy import Policy, snapshot_folder

_SIDES = ("chosen", "rejected")


def run(config: RunConfig, run_dir: Path) -> None:
    """Trains the generator on the pairs."""
    depends = config.part("seed", "dtype", "grid", "generator", "align") | {"model": model_identity(config.generator)}
    if _is_watched(config):
        depends |= {"rewarder": rewarder_identity(config)}
    with open_stage(run_dir, "align", depends, STAGES["align"].reads(config)) as stage:
        if stage is None:
            return
        stage.use_threads(config.threads)
        device = resolve_device(config.device)
        generator = open_generator(config)
        pairs = PairData(run_dir, config, device)
        pairs.encode_latents(generator, stage.path / "parts" / "latents")
        torch.manual_seed(config.align_seed)  # the adapter's first weights
        try:
            policy = Policy(generator, config.align)
        except ValueError as error:
            raise InputError(f"align.lora.targets is {config.align.lora.targets}: {error}") from error
        monitor = make_monitor(pairs, config, run_dir, stage.path / "samples")
        train(policy, pairs, monitor, config, stage)
        with policy.averaged():
            generator.save_weights(stage.path / "weights")


class PairData:
    """Preference pairs with the latents and prompts of their clips, read when they are needed."""

    def __init__(self, run_dir: Path, config: RunConfig, device: torch.device) -> None:
        folders = {name: ClipFolder(run_dir / name, config.clip_size) for name in config.paired_folders}
        self._clips = folders["generate"]
        self._by_name = {(name, row["clip_id"]): (clips, row) for name, clips in folders.items() for row in clips.rows}
        self._pairs: list[Row] = read_table(run_dir / "pair" / "pairs.parquet", PAIRS).to_pylist()
        self._grid, self._device = config.margin_grid, device
        unknown = {_clip_of(pair, side) for pair in self._pairs for side in _SIDES} - self._by_name.keys()
        if unknown or not self._pairs:
            raise InputError(f"{run_dir}/pair names clips that no folder of clips holds: {sorted(unknown)[:5]}")
        sizes = {len(pair["patch_margins"]) for pair in self._pairs}
        if sizes != {self._grid.num_patches}:
            raise InputError(
                f"the pairs have {sorted(sizes)} patches, the recipe's grid {self._grid.shape} has "
                f"{self._grid.num_patches}; run `halovid score` and `halovid pair` again, or set grid back"
            )

    def __len__(self) -> int:
        return len(self._pairs)

    def encode_latents(self, generator: Generator, folder: Path) -> None:
        """Makes the latents of imported clips, which come without any, in `folder`."""
        used = {_clip_of(pair, side) for pair in self._pairs for side in _SIDES}
        imported = [row for row in self._clips.rows if ("generate", row["clip_id"]) in used]
        self._clips.encode_latents(imported, generator, folder)

    @property
    def geometry(self) -> LatentGeometry:
        """How the generator divides the clips."""
        return self._clips.geometry

    @property
    def prompts(self) -> list[Row]:
        """One clip row of each prompt, in the order of the table."""
        return [rows[0] for rows in self._clips.by_prompt.values()]

    def prompt_embeds(self, rows: list[Row]) -> Tensor:
        """[len(rows), L, D]."""
        return torch.stack([self._clips.prompt_embeds(row["prompt_id"]) for row in rows]).to(self._device)

    def _latents(self, pair: Row, side: str) -> Tensor:
        """[C, T, h, w]."""
        clips, row = self._by_name[_clip_of(pair, side)]
        return clips.latents(row)

    def batch(self, indices: list[int]) -> dict[str, Tensor]:
        """Latents of chosen and rejected [B, C, T, h, w], prompt_embeds, clip_margin, patch_margins and weight."""
        pairs = [self._pairs[index] for index in indices]
        sides = {side: torch.stack([self._latents(pair, side) for pair in pairs]) for side in _SIDES}
        margins = torch.tensor([pair["patch_margins"] for pair in pairs]).unflatten(1, self._grid.shape)
        batch = sides | {
            "prompt_embeds": self.prompt_embeds(pairs),
            "clip_margin": torch.tensor([pair["clip_margin"] for pair in pairs]),
            "patch_margins": margins,
            "weight": torch.tensor([pair["weight"] for pair in pairs]),
        }
        return {name: value.to(self._device) for name, value in batch.items()}


def _clip_of(pair: Row, side: str) -> tuple[str, str]:
    """The folder and the name of the chosen or the rejected clip of a pair."""
    return pair[f"{side}_folder"], pair[side]


def pair_errors(policy: Policy, batch: dict[str, Tensor], noise: Tensor, sigma: Tensor) -> PairErrors:
    """The error maps of each pair: chosen and rejected clip under policy and reference, and how far these two differ.

    Args:
        noise: [B, 2, C, T, h, w] for the chosen and the rejected clip, which usually are the same.
        sigma: [B], one noise level for all four predictions.
    """
    generator = policy.generator
    latents = torch.cat([batch["chosen"], batch["rejected"]])
    noise, sigma = torch.cat([noise[:, 0], noise[:, 1]]), torch.cat([sigma, sigma])
    prompts = torch.cat([batch["prompt_embeds"]] * 2)
    noisy = generator.add_noise(latents, noise, sigma)
    target = generator.target(latents, noise, sigma)
    prediction = generator.predict(noisy, sigma, prompts)
    with policy.reference():
        reference = generator.predict(noisy, sigma, prompts)
    maps = [
        squared_error_map(*two).chunk(2) for two in ((prediction, target), (reference, target), (prediction, reference))
    ]
    return PairErrors(*maps[0], *maps[1], *maps[2])


def train(policy: Policy, pairs: PairData, monitor: Monitor | None, config: RunConfig, stage: StageFolder) -> None:
    """The loop: exact to resume, since step k's data and noise are functions of the seed and k alone."""
    align = config.align
    optimizer = torch.optim.AdamW(policy.parameters.values(), lr=align.learning_rate, weight_decay=align.weight_decay)
    base = monitor.observe(policy.generator, 0) if monitor else None  # before a checkpoint is read: still the base
    checkpoint, step, log = stage.path / "parts" / "training.safetensors", 0, []
    if checkpoint.exists():
        state = load_checkpoint(checkpoint)
        policy.load_state(state["policy"])
        optimizer.load_state_dict(state["optimizer"])
        step, log = state["step"], state["log"]
    with (
        SummaryWriter(stage.path / "tensorboard", purge_step=step) as board,
        progress("align", align.steps, step) as advance,
    ):
        while step < align.steps:
            for group in optimizer.param_groups:
                group["lr"] = align.learning_rate * min((step + 1) / max(align.warmup, 1), 1.0)
            metrics = train_step(policy, optimizer, pairs, config, step, stage.path)
            step += 1
            advance()
            if monitor and base and (step % align.sample_every == 0 or step == align.steps):
                metrics |= _watch(monitor, base, policy, step)
            for name, value in metrics.items():
                board.add_scalar(name, value, step)
            log.append({"step": step} | metrics)
            if step in align.snapshots:
                with policy.averaged():
                    policy.generator.save_weights(snapshot_folder(stage.path, step))
            if step % align.checkpoint_every == 0:
                state = {"policy": policy.state(), "optimizer": optimizer.state_dict(), "step": step, "log": log}
                save_checkpoint(checkpoint, state)
    write_text(stage.path / "log.jsonl", "".join(json.dumps(line) + "\n" for line in log))


def _watch(monitor: Monitor, base: Reading, policy: Policy, step: int) -> dict[str, float]:
    """What the monitor measures of the averaged weights; it warns when the reward and the other measures part."""
    with policy.averaged():
        now = monitor.observe(policy.generator, step)
    sentences = parting(base, now)
    for sentence in sentences:
        console.print(f"align: {sentence}", style="yellow")
    return now.means() | {"monitor/measures that part": float(len(sentences))}


def train_step(
    policy: Policy, optimizer: torch.optim.Optimizer, pairs: PairData, config: RunConfig, step: int, folder: Path
) -> dict[str, float]:
    """One optimiser step and what to log of it.

    Raises:
        TrainingError: the loss is not finite; the batch is saved.
    """
    align = config.align
    generator = torch.Generator().manual_seed(step_seed(config.align_seed, 1_000_003, step))
    indices = batch_indices(len(pairs), align.batch_size, step, config.align_seed)
    batch = pairs.batch(indices)
    noise = draw_noise(batch["chosen"], align.shared_noise, generator)
    sigma = sample_sigma(len(indices), align.sigma, generator).to(batch["chosen"])
    optimizer.zero_grad()
    collected: dict[str, list[Tensor]] = {}
    for part in torch.arange(len(indices)).tensor_split(align.micro_batches):
        if not len(part):
            continue
        own = {name: value[part] for name, value in batch.items()}
        errors = pair_errors(policy, own, noise[part], sigma[part])
        weight = timestep_weight(sigma[part], align.timestep_weight)
        loss, metrics = gran_dpo_loss(
            errors, Margins(own["clip_margin"], own["patch_margins"], own["weight"]), weight, align.loss
        )
        if not torch.isfinite(loss).all():
            path = folder / f"bad_batch_{step}.safetensors"
            save_file(own | {"noise": noise[part], "sigma": sigma[part]}, path)
            raise TrainingError(
                f"the loss is not finite at step {step}; the batch is saved as {path}: look at it, or lower "
                f"align.learning_rate or align.loss.beta_* and run again"
            )
        (loss.sum() / len(indices)).backward()
        for name, value in (metrics | {"loss/total": loss.detach()}).items():
            collected.setdefault(name, []).append(value)
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters.values(), align.max_grad_norm)
    optimizer.step()
    policy.update_average()
    means = {name: torch.cat(values).mean().item() for name, values in collected.items()}
    return means | {"train/grad_norm": norm.item(), "train/learning_rate": optimizer.param_groups[0]["lr"]}


def draw_noise(latents: Tensor, shared: bool, generator: torch.Generator) -> Tensor:
    """The noise of each pair's two clips, [B, 2, *]: one draw for both, or one each."""
    count, *shape = latents.shape
    return torch.randn((count, 1 if shared else 2, *shape), generator=generator).expand(-1, 2, *shape).to(latents)


def batch_indices(count: int, size: int, step: int, seed: int) -> list[int]:
    """The pairs of a step: the data set in a new random order each time it is through."""
    wanted = range(step * size, (step + 1) * size)
    orders: dict[int, list[int]] = {}
    for position in wanted:
        epoch = position // count
        if epoch not in orders:
            generator = torch.Generator().manual_seed(step_seed(seed, 7_000_003, epoch))
            orders[epoch] = torch.randperm(count, generator=generator).tolist()
    return [orders[position // count][position % count] for position in wanted]


def _is_watched(config: RunConfig) -> bool:
    """Whether clips are sampled and rewarded while the generator is trained."""
    return config.align.sample_prompts > 0 and config.has_rewarder


def make_monitor(pairs: PairData, config: RunConfig, run_dir: Path, folder: Path) -> Monitor | None:
    """The monitor of the first `align.sample_prompts` prompts; None when there are to be none, or no rewards."""
    if not _is_watched(config):
        return None
    prompts = pairs.prompts[: config.align.sample_prompts]
    rows = [row | {"seed": clip_seed(config.seed, row["prompt_id"], 0)} for row in prompts]
    rewarder = open_rewarder(config, run_dir, pairs.geometry)
    return Monitor(folder, rewarder, rows, pairs.prompt_embeds(rows), config)
