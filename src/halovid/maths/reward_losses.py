"""Losses of reward models: pure functions of scores and labels, for clips and for patches alike.

Shapes: scores and labels [N, aspects]; N counts clips or patches. Labels that are NaN are unknown and do not count.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TIE_STRENGTH = 5.0  # theta of Bradley-Terry with ties; the value that VideoReward was trained with


def regression_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error over the known labels, a scalar; 0 without any."""
    known = ~labels.isnan()
    return F.mse_loss(scores[known], labels[known], reduction="sum") / known.sum().clamp(min=1)


def bradley_terry_loss(score_margins: Tensor, label_margins: Tensor, tie: float, theta: float = TIE_STRENGTH) -> Tensor:
    """Negative log-likelihood of the labels' preferences, a scalar: Bradley-Terry with ties.

        P(first better)  = sigmoid(d - log theta),  d = score of the first minus score of the second
        P(second better) = sigmoid(-d - log theta)
        P(tie)           = (theta ** 2 - 1) * P(first better) * P(second better)

    The three sum to one for every d. Without any pair the loss is 0.

    Args:
        score_margins: [...], d of each pair.
        label_margins: [...], the first label minus the second; NaN when one of them is unknown.
        tie: label margins up to this size are ties.
        theta: above 1; the larger, the more ties are expected.

    Source: Rao and Kupper 1967; used for video rewards by VideoAlign (arXiv 2501.13918).
    """
    known = ~label_margins.isnan()
    likelihood = preference_log_probability(score_margins[known], label_margins[known], tie, theta)
    return -likelihood.sum() / max(1, likelihood.numel())


def preference_log_probability(score_margins: Tensor, label_margins: Tensor, tie: float, theta: float) -> Tensor:
    """Log-probability of each pair's outcome (first better, second better, tie), shape of the margins."""
    first = F.logsigmoid(score_margins - math.log(theta))
    second = F.logsigmoid(-score_margins - math.log(theta))
    decided = torch.where(label_margins > 0, first, second)
    return torch.where(label_margins.abs() <= tie, first + second + math.log(theta**2 - 1), decided)


def draw_pairs(count: int, partners: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices of random pairs of `count` items, [n] each: every item is paired with `partners` others.

    With fewer others than `partners` it is paired with all of them; a single item gives no pair.
    """
    order = torch.randperm(count, generator=generator)
    steps = range(1, min(partners, count - 1) + 1)
    return order.repeat(len(steps)), torch.cat([order[:0], *(order.roll(step) for step in steps)])
