"""Seeds fit whoever takes them, and those of published trainings stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from halovid.maths.seeds import HIGHEST_SEED, clip_seed, derive_seed, step_seed


@pytest.mark.parametrize("seed", [0, 20261127225959, 1_790_000_000_000_000_000, HIGHEST_SEED])
def test_every_seed_that_validates_can_be_drawn_from(seed: int) -> None:
    for drawn in (step_seed(seed, 7_000_003, 10**8), clip_seed(seed, "p00000", 3), derive_seed(seed, "a", 1)):
        assert 0 <= drawn <= HIGHEST_SEED
        torch.Generator().manual_seed(drawn)
        np.random.default_rng(drawn)


def test_small_seeds_give_the_numbers_of_published_trainings() -> None:
    assert step_seed(3, 1_000_003, 5) == 3 * 1_000_003 + 5
    assert clip_seed(0, "p00000", 1) == derive_seed(0, "p00000", 1) == derive_seed("0/p00000/1")
