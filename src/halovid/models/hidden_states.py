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
    states: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)
        raise _ReachedError

    handle = block.register_forward_hook(keep)
    try:
        forward()
    except _ReachedError:
        pass
    finally:
        handle.remove()
    [tokens] = states
    return tokens.unflatten(1, token_shape(tokens, latent_shape)).movedim(-1, 1)


def token_shape(tokens: Tensor, latent_shape: Sequence[int]) -> tuple[int, int, int]:
    """How tokens [B, L, D] lie in a clip of latents (T, h, w): the (T', h', w') whose product is L.

    Raises:
        InputError: they are not the tokens of such a clip.
    """
    frames, height, width = latent_shape
    for length, side in itertools.product(_TOKEN_LENGTHS, _TOKEN_SIDES):
        shape = frames // length, height // side, width // side
        if tokens.dim() == 3 and tokens.shape[1] == shape[0] * shape[1] * shape[2]:
            return shape
    raise InputError(
        f"the denoiser's blocks give states of shape {tuple(tokens.shape)}, which are not the tokens of a clip of "
        f"{frames} x {height} x {width} latent cells; reward.backbone 'denoiser' needs a transformer over such tokens"
    )
