"""Which pairs, noise and levels a step has."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halovid.maths.noise import SigmaSampling
from halovid.training.batches import batch_indices, draw_noise

SHAPE = (2, 3, 4, 5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**63 - 1))
def test_every_pair_is_seen_once_an_epoch(count: int, size: int, seed: int) -> None:
    steps = 3 * count  # in which `size` whole multiples of 3 epochs pass
    order = [index for step in range(steps) for index in batch_indices(count, size, step, seed)]
    for first in range(0, len(order), count):
        assert sorted(order[first : first + count]) == list(range(count))
    assert set(Counter(order).values()) == {3 * size}


def test_the_order_is_a_function_of_seed_and_step_and_changes_with_the_epoch() -> None:
    assert batch_indices(9, 4, 7, 1) == batch_indices(9, 4, 7, 1)
    assert len({tuple(batch_indices(50, 50, epoch, seed)) for epoch in range(3) for seed in range(3)}) == 9


def test_draws_are_a_function_of_seed_and_step() -> None:
    draws = [
        draw_noise((4, 2), SHAPE, True, SigmaSampling(), step, seed) for step, seed in ((3, 1), (3, 1), (4, 1), (3, 2))
    ]
    assert torch.equal(draws[0][0], draws[1][0]) and torch.equal(draws[0][1], draws[1][1])
    assert not any(torch.equal(draws[0][0], other[0]) or torch.equal(draws[0][1], other[1]) for other in draws[2:])


@pytest.mark.parametrize("shared", [True, False])
def test_the_clips_of_a_pair_share_their_noise_or_have_their_own(shared: bool) -> None:
    noise, level = draw_noise((6, 2), SHAPE, shared, SigmaSampling(lowest=0.2, highest=0.4), 0, 0)
    assert noise.shape == (6, 2, *SHAPE) and level.shape == (6,)
    assert torch.equal(noise[:, 0], noise[:, 1]) == shared
    assert ((level >= 0.2) & (level <= 0.4)).all() and len(level.unique()) == 6


def test_the_largest_seed_works() -> None:
    batch_indices(5, 2, 10**6, 2**63 - 1)
    draw_noise((1, 2), SHAPE, True, SigmaSampling(), 10**6, 2**63 - 1)
