"""Pairs against brute force."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from halovid.maths.pairing import all_pairs, best_worst, random_pairs, rarity_weights

quick = settings(max_examples=80, deadline=None, derandomize=True)
# prompts of one clip and of several, in mixed order; few distinct rewards, so that ties are common
clips = st.lists(st.tuples(st.integers(0, 4), st.integers(-3, 3)), min_size=1, max_size=17)


def by_prompt(prompts: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(prompts == prompt).tolist() for prompt in np.unique(prompts)]


def columns(values: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    prompts, rewards = np.array(values).T
    return prompts, rewards.astype(np.float64) / 3


def pairs_of(result: tuple[np.ndarray, np.ndarray]) -> list[tuple[int, int]]:
    return list(zip(result[0].tolist(), result[1].tolist(), strict=True))


@quick
@given(clips)
def test_all_pairs_are_every_two_clips_of_a_prompt_the_better_one_first(values: list[tuple[int, int]]) -> None:
    prompts, rewards = columns(values)
    pairs = pairs_of(all_pairs(prompts, rewards))
    expected = [frozenset(two) for rows in by_prompt(prompts) for two in itertools.combinations(rows, 2)]
    assert Counter(map(frozenset, pairs)) == Counter(expected)
    assert all(rewards[chosen] >= rewards[rejected] for chosen, rejected in pairs)


@quick
@given(clips, st.integers(1, 5))
def test_best_worst_takes_the_kth_best_against_the_kth_worst(values: list[tuple[int, int]], count: int) -> None:
    prompts, rewards = columns(values)
    pairs = pairs_of(best_worst(prompts, rewards, count))
    expected: Counter[tuple[int, float, float]] = Counter()
    for rows in by_prompt(prompts):
        ranked = sorted(rewards[rows].tolist(), reverse=True)
        for k in range(min(count, len(rows) // 2)):
            expected[(int(prompts[rows[0]]), ranked[k], ranked[-1 - k])] += 1
    assert Counter((int(prompts[c]), float(rewards[c]), float(rewards[r])) for c, r in pairs) == expected
    assert all(prompts[c] == prompts[r] for c, r in pairs)
    used = [clip for pair in pairs for clip in pair]
    assert len(used) == len(set(used))  # no clip twice, also among ties


@quick
@given(clips, st.integers(1, 7), st.integers(0, 99))
def test_random_pairs_are_pairs_of_different_clips(values: list[tuple[int, int]], count: int, seed: int) -> None:
    prompts, rewards = columns(values)
    pairs = pairs_of(random_pairs(prompts, rewards, count, np.random.default_rng(seed)))
    several = [int(prompts[rows[0]]) for rows in by_prompt(prompts) if len(rows) > 1]
    assert Counter(int(prompts[chosen]) for chosen, _ in pairs) == dict.fromkeys(several, count)
    for chosen, rejected in pairs:
        assert chosen != rejected
        assert prompts[chosen] == prompts[rejected]
        assert rewards[chosen] >= rewards[rejected]
    assert pairs == pairs_of(random_pairs(prompts, rewards, count, np.random.default_rng(seed)))


def test_random_pairs_are_all_alike_likely() -> None:
    prompts, rewards = np.array([7, 3, 7, 7, 7]), np.array([0.0, 9.0, 3.0, 1.0, 2.0])
    counts = Counter(pairs_of(random_pairs(prompts, rewards, 6000, np.random.default_rng(0))))
    assert set(counts) == {(2, 4), (2, 3), (2, 0), (4, 3), (4, 0), (3, 0)}
    assert max(abs(number - 1000) for number in counts.values()) < 120  # four standard deviations


def test_prompts_need_not_be_sorted_or_dense() -> None:
    prompts, rewards = np.array([90, -5, 90, -5, 90]), np.array([0.1, 0.9, 0.5, 0.2, 0.3])
    assert pairs_of(best_worst(prompts, rewards, 3)) == [(1, 3), (2, 0)]
    assert pairs_of(all_pairs(prompts, rewards)) == [(1, 3), (2, 4), (2, 0), (4, 0)]


def test_no_clips_give_no_pairs() -> None:
    nothing = np.array([], dtype=np.int64)
    for result in (best_worst(nothing, nothing, 3), all_pairs(nothing, nothing)):
        assert [len(side) for side in result] == [0, 0]
    assert pairs_of(random_pairs(np.array([1, 2]), np.array([0.5, 0.7]), 3, np.random.default_rng(0))) == []


def test_pairs_of_rare_rewards_weigh_more_and_the_mean_weight_is_one() -> None:
    rewards = np.array([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 2.0])
    chosen, rejected = np.array([4, 6]), np.array([0, 5])
    weights = rarity_weights(rewards, chosen, rejected, power=0.5)
    raw = np.array([(2 / 7 * 4 / 7) ** -0.5, (1 / 7 * 2 / 7) ** -0.5])
    np.testing.assert_allclose(weights, raw / raw.mean())
    np.testing.assert_array_equal(rarity_weights(rewards, chosen, rejected, power=0.0), [1, 1])
    np.testing.assert_array_equal(rarity_weights(np.ones(3), np.array([0]), np.array([1]), power=1.0), [1])
