"""The error maps of a batch against a computation in float64, clip by clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from halovid.maths.losses import PairErrors
from halovid.training.loop import Alignment
from halovid.training.pair_errors import pair_errors
from tiny_training import C, H, T, TinyPairs, W, make_alignment

B = 3


@pytest.fixture
def alignment(tmp_path: Path) -> Alignment:
    """A policy that has moved away from its reference."""
    alignment = make_alignment(tmp_path)
    with torch.no_grad():
        for parameter in alignment.policy.parameters.values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return alignment


def errors_of(alignment: Alignment, sides: int, with_reference: bool) -> PairErrors:
    noise = torch.randn(B, 2, C, T, H, W, generator=torch.Generator().manual_seed(2))
    batch = TinyPairs(sides=sides).batch(range(B))
    return pair_errors(alignment.policy, batch, noise, torch.tensor([0.1, 0.5, 0.9]), with_reference)


def expected(weights: dict[str, np.ndarray], reference: dict[str, np.ndarray], side: int) -> list[np.ndarray]:
    """Error, reference's error and drift of one side, [B, T, h, w] each."""
    batch = TinyPairs().batch(range(B))
    noise = torch.randn(B, 2, C, T, H, W, generator=torch.Generator().manual_seed(2)).double().numpy()
    maps: list[list[np.ndarray]] = [[], [], []]
    for i, level in enumerate((0.1, 0.5, 0.9)):
        clip, prompt = (
            batch.latents[i, side].double().numpy(),
            batch.conditioning.tensors["prompt_embeds"][i].double().numpy(),
        )
        noisy, target = (1 - level) * clip + level * noise[i, side], noise[i, side] - clip
        first, second = (
            np.einsum("oi,ithw->othw", w["mix.weight"][:, :, 0, 0, 0], noisy)
            + (w["mix.bias"] + w["text.weight"] @ prompt.mean(0) + w["text.bias"] + level)[:, None, None, None]
            for w in (weights, reference)
        )
        for place, (one, other) in enumerate(((first, target), (second, target), (first, second))):
            maps[place].append(((one - other) ** 2).mean(0))
    return [np.stack(values) for values in maps]


def test_all_six_maps_are_their_formula(alignment: Alignment) -> None:
    errors = errors_of(alignment, 2, True)
    policy = {name: value.detach().double().numpy() for name, value in alignment.policy.parameters.items()}
    with alignment.policy.reference():
        frozen = alignment.policy.model.denoisers["transformer"].state_dict()
    reference = {name: value.double().numpy() for name, value in frozen.items()}
    chosen, rejected = expected(policy, reference, 0), expected(policy, reference, 1)
    found = (errors.chosen, errors.rejected, errors.ref_chosen, errors.ref_rejected)
    found += (errors.drift_chosen, errors.drift_rejected)
    for value, wanted in zip(found, (side[place] for place in range(3) for side in (chosen, rejected)), strict=True):
        np.testing.assert_allclose(value.detach().numpy(), wanted, rtol=1e-4, atol=1e-6)
    assert not errors.ref_chosen.requires_grad and errors.drift_chosen.requires_grad


@pytest.mark.parametrize("with_reference", [True, False])
@pytest.mark.parametrize("sides", [1, 2])
def test_no_prediction_is_made_that_nobody_asked_for(alignment: Alignment, sides: int, with_reference: bool) -> None:
    whole = errors_of(alignment, 2, True)
    alignment.policy.model.predicted.clear()
    errors = errors_of(alignment, sides, with_reference)
    assert alignment.policy.model.predicted == [sides * B] * (2 if with_reference else 1)
    for name, value in vars(errors).items():
        absent = (sides == 1 and "rejected" in name) or (not with_reference and name not in ("chosen", "rejected"))
        assert value.isnan().all() if absent else torch.allclose(value, getattr(whole, name)), name
