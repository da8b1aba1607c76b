"""What the generator's own denoiser knows of clips: the hidden states that backbone `denoiser` rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from halovid.clips.folder import ClipFolder, Row
from halovid.config.run import RunConfig
from halovid.maths.grid import PatchGrid, pool_cells
from halovid.maths.noise import seeded_noise
from halovid.models import DiffusionModel, open_model
from halovid.records import Conditioning
from halovid.rewards.backbones import DenoiserSpec
from halovid.store.errors import InputError
from halovid.store.runtime import batches, progress

_AT_ONCE = 16  # clips that are shown to the denoiser at once


class HiddenStateReader:
    """Reads the hidden states of clips, averaged over patches.

    Each clip is brought to a noise level first, always with the same noise, so that a clip has the same states
    whenever it is read.

    Args:
        model: the generator before any training, with its parts denoiser and autoencoder.
        block: the denoiser's block, counted from 0.
        levels: the noise levels to read at.
    """

    def __init__(self, model: DiffusionModel, block: int, levels: Sequence[float], grid: PatchGrid) -> None:
        self.model, self.block, self._grid = model, block, grid
        self.levels = tuple(levels)

    @torch.no_grad()
    def read(self, latents: Tensor, conditioning: Conditioning, level: float) -> Tensor:
        """The hidden states of clips at a noise level: [B, D, t, h, w].

        Args:
            latents: [B, C, T, h, w].
            conditioning: a row for each.
        """
        device = self.model.device
        latents, levels = latents.to(device), torch.full((len(latents),), level, device=device)
        noise = seeded_noise(latents.shape[1:], [0] * len(latents)).to(device)
        return self.read_noisy(self.model.noise.noisy(latents, noise, levels), conditioning, levels)

    def count_states(self, conditioning: Conditioning) -> int:
        """How many numbers a hidden state has, D.

        Args:
            conditioning: of any one prompt.
        """
        return self.read(torch.zeros(1, *self.model.latent_shape), conditioning, self.levels[0]).shape[1]

    @torch.no_grad()
    def read_noisy(self, noisy: Tensor, conditioning: Conditioning, levels: Tensor) -> Tensor:
        """The hidden states of clips that are noisy already, as while they are sampled: [B, D, t, h, w]."""
        states = self.model.hidden_states(noisy, levels, conditioning.to(self.model.device), self.block)
        return pool_cells(states.float(), self._grid)

    def read_folder(
        self, clips: ClipFolder, rows: Sequence[Row], skip: Callable[[str, str], None]
    ) -> tuple[list[Row], Tensor | None]:
        """The rows whose clips can be read, once for each noise level, and these states [n, D, t, h, w], or None.

        `skip` is called with the id of each other clip and the reason.
        """
        read_rows: list[Row] = []
        states: list[Tensor] = []
        with progress("read hidden states", len(rows)) as advance:
            for batch in batches(rows, _AT_ONCE):
                readable, latents = read_latents(clips, batch, self.model, skip)
                if latents is not None:
                    conditioning = clips.conditioning([row["prompt_id"] for row in readable])
                    for level in self.levels:
                        states.append(self.read(latents, conditioning, level).half().cpu())
                        read_rows += readable
                advance(len(batch))
        return read_rows, torch.cat(states) if states else None


def open_reader(config: RunConfig, spec: DenoiserSpec | None = None) -> HiddenStateReader:
    """The reader for a reward network of this specification, or for a new one as the recipe describes it.

    Raises:
        InputError: the model can't be opened, or has no such block.
    """
    model = open_model(config, {"denoiser", "autoencoder"})
    if spec is not None:
        return HiddenStateReader(model, spec.block, spec.levels, config.grid)
    blocks = len(model.blocks())
    block = blocks // 2 if config.reward.block is None else config.reward.block
    if block >= blocks:
        raise InputError(f"reward.block is {block}; the denoiser's blocks are numbered 0 to {blocks - 1}")
    return HiddenStateReader(model, block, config.reward.levels, config.grid)


def read_latents(
    clips: ClipFolder, rows: Sequence[Row], model: DiffusionModel, skip: Callable[[str, str], None]
) -> tuple[list[Row], Tensor | None]:
    """The rows whose clips can be read, and their latents [B, C, T, h, w]; imported clips are encoded."""

    def read(row: Row) -> Tensor:
        has_latents = row["latents"] is not None
        return clips.latents(row) if has_latents else model.encode_video(clips.video(row)[None])[0].cpu()

    return clips.readable(rows, skip, read)
