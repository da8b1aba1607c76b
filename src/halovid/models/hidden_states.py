"""Reads what a block inside a denoiser computes, without computing what comes after it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from halovid.store.errors import InputError

_TOKEN_SIDES = (1, 2, 4)  # latent cells that a network joins along height and width to one token
_TOKEN_LENGTHS = (1, 2)  # the same along time


class _ReachedError(Exception):
    """Ends the forward pass once the block has answered."""


def hidden_states(block: nn.Module, forward: Callable[[], object], latent_shape: Sequence[int]) -> Tensor:
    """What `block` gives during `forward`, with its tokens laid out in time and space: [B, D, T', h', w'].

    Args:
        forward: calls the network; it is cut short at the block.
        latent_shape: (T, h, w) of the latents that the network is given.

    Raises:
        InputError: the block gives something else than a state for each token of the clip.
    """
    outputs: list[Any] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs.append(output)
        raise _ReachedError

    handle = block.register_forward_hook(keep)
    try:
        forward()
    except _ReachedError:
        pass
    finally:
        handle.remove()
    tokens, shape = _tokens_of_the_clip(outputs[0], latent_shape)
    return tokens.unflatten(1, shape).movedim(-1, 1)


def _tokens_of_the_clip(output: Any, latent_shape: Sequence[int]) -> tuple[Tensor, tuple[int, int, int]]:
    """What a block gives for the clip, [B, L, D], and its layout; some blocks give the tokens of the text beside it.

    Raises:
        InputError: nothing, or more than one thing, can be the tokens of the clip.
    """
    parts = [part for part in (output if isinstance(output, tuple) else (output,)) if isinstance(part, Tensor)]
    laid_out = [(part, shape) for part in parts if (shape := token_shape(part, latent_shape)) is not None]
    if len(laid_out) != 1:
        frames, height, width = latent_shape
        shapes = " and ".join(str(tuple(part.shape)) for part in parts)
        problem = "are not the tokens" if not laid_out else "can each be the tokens"
        raise InputError(
            f"the denoiser's blocks give states of shape {shapes}, which {problem} of a clip of {frames} x {height} x "
            f"{width} latent cells; reward.backbone 'denoiser' needs a transformer over such tokens"
        )
    return laid_out[0]


def token_shape(tokens: Tensor, latent_shape: Sequence[int]) -> tuple[int, int, int] | None:
    """How tokens [B, L, D] lie in a clip of latents (T, h, w): the (T', h', w') whose product is L; None if none is."""
    frames, height, width = latent_shape
    for length, side in itertools.product(_TOKEN_LENGTHS, _TOKEN_SIDES):
        shape = frames // length, height // side, width // side
        if tokens.dim() == 3 and tokens.shape[1] == shape[0] * shape[1] * shape[2]:
            return shape
    return None
