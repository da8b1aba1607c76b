"""Preference pairs from rewards, vectorised over all prompts at once."""

from __future__ import annotations

import numpy as np

_REWARD_BINS = 20


def best_worst(prompts: np.ndarray, rewards: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The k-th best clip of each prompt against its k-th worst, k = 1..count, as long as the former ranks higher.

    Args:
        prompts: [n] the prompt of each clip, any integers.  rewards: [n].

    Returns:
        Row numbers of the chosen and of the rejected clips, [pairs] each.
    """
    order, rank, size = _rank_by_prompt(prompts, rewards)
    counterpart = np.arange(len(order)) - rank + (size - 1 - rank)  # the same rank counted from the worst
    picked = (rank < count) & (rank < size // 2)
    return order[picked], order[counterpart[picked]]


def all_pairs(prompts: np.ndarray, rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every two clips of a prompt, the better one chosen; like `best_worst`."""
    order, rank, size = _rank_by_prompt(prompts, rewards)
    num_worse = size - 1 - rank  # how many clips of the prompt come after each
    chosen = np.repeat(np.arange(len(order)), num_worse)
    steps_behind = np.arange(len(chosen)) - np.repeat(np.cumsum(num_worse) - num_worse, num_worse)  # 0..num_worse - 1
    return order[chosen], order[chosen + 1 + steps_behind]


def random_pairs(
    prompts: np.ndarray, rewards: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`count` random pairs of different clips of each prompt, the better one chosen; like `best_worst`."""
    order, rank, size = _rank_by_prompt(prompts, rewards)
    best = np.repeat(np.flatnonzero((rank == 0) & (size > 1)), count)  # `count` times the first row of each prompt
    sizes = size[best]
    one = rng.integers(0, sizes)
    other = (one + rng.integers(1, sizes)) % sizes
    return order[best + np.minimum(one, other)], order[best + np.maximum(one, other)]


def rarity_weights(rewards: np.ndarray, chosen: np.ndarray, rejected: np.ndarray, power: float) -> np.ndarray:
    """Weights that grow with the rarity of a pair's two rewards, mean 1: [pairs].

    (1 / (p(chosen) p(rejected))) ** power, p = the share of all clips whose reward falls into the same of 20 bins.
    Source: VideoDPO (arXiv 2412.14167), which has a constant factor where this divides by the mean.

    Args:
        rewards: [n].  chosen, rejected: [pairs] row numbers.
    """
    edges = np.histogram_bin_edges(rewards, bins=_REWARD_BINS)
    bins = np.clip(np.digitize(rewards, edges) - 1, 0, _REWARD_BINS - 1)
    share = np.bincount(bins, minlength=_REWARD_BINS) / len(rewards)
    raw = (share[bins[chosen]] * share[bins[rejected]]) ** -power
    return raw / raw.mean()


def _rank_by_prompt(prompts: np.ndarray, rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clips sorted by prompt and falling reward: row numbers, rank within the prompt from 0 on, clips of the prompt."""
    order = np.lexsort((-rewards, prompts))
    _, first, counts = np.unique(prompts[order], return_index=True, return_counts=True)
    return order, np.arange(len(order)) - np.repeat(first, counts), np.repeat(counts, counts)
