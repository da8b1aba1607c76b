"""Who labels what: pure functions of seed and name."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halovid.labelling.assignment import Item, common_items, in_order, is_swapped, remaining_items, ring_pairs

ITEMS = [Item(f"clip-{index}") for index in range(40)]
quick = settings(max_examples=40, deadline=None, derandomize=True)


def test_the_order_depends_on_seed_and_annotator_alone() -> None:
    mixed = random.Random(0).sample(ITEMS, len(ITEMS))
    common = common_items(ITEMS, 0.2, 3)
    assert in_order(ITEMS, common, 3, "Ann") == in_order(mixed, common, 3, "Ann")
    assert sorted(in_order(ITEMS, common, 3, "Ann")) == sorted(ITEMS)
    assert len({tuple(in_order(ITEMS, common, seed, name)) for seed in (0, 1) for name in ("Ann", "Bob", "")}) == 6


@quick
@given(st.integers(1, 480), st.floats(0, 1), st.integers(0, 3), st.integers(0, 480))
def test_those_who_stop_early_have_labelled_the_same_common_items(
    count: int, share: float, seed: int, done: int
) -> None:
    items = [Item(f"clip-{index}") for index in range(count)]
    common = common_items(items, share, seed)
    begun = [in_order(items, common, seed, name)[:done] for name in ("Ann", "Bob", "Eve")]
    labelled = [[item for item in answers if item in common] for answers in begun]
    assert labelled[0] == labelled[1] == labelled[2]
    assert abs(len(labelled[0]) - len(common) / count * min(done, count)) <= 1


@pytest.mark.parametrize(("share", "count"), [(0, 0), (0.2, 8), (0.99, 40), (1, 40)])
def test_the_common_share_is_exact_and_does_not_depend_on_the_order(share: float, count: int) -> None:
    common = common_items(ITEMS, share, 0)
    assert len(common) == count
    assert common == common_items(ITEMS[::-1], share, 0)
    assert common_items(ITEMS, 0.1, 0) <= common_items(ITEMS, 0.5, 0)


def test_what_others_have_taken_is_left_out_unless_it_is_common() -> None:
    first, second, third = ITEMS[:3]
    assert remaining_items([first, second, third], {second}, {first}, {second, third}) == [second]
    assert remaining_items([first, second], {first}, {first}, set()) == [second]


@quick
@given(st.dictionaries(st.text(max_size=3), st.integers(0, 7), max_size=4), st.integers(0, 3))
def test_ring_pairs_join_clips_of_a_prompt_and_each_clip_meets_two(sizes: dict[str, int], seed: int) -> None:
    prompts = {prompt: [f"{prompt}/{index}" for index in range(size)] for prompt, size in sizes.items()}
    pairs = ring_pairs(prompts, seed)
    prompt_of = {clip: prompt for prompt, clips in prompts.items() for clip in clips}
    assert all(pair.is_pair and prompt_of[pair.first] == prompt_of[pair.second] for pair in pairs)
    assert len({frozenset((pair.first, pair.second)) for pair in pairs}) == len(pairs)
    met = Counter(clip for pair in pairs for clip in (pair.first, pair.second))
    for prompt, clips in prompts.items():
        assert {met[clip] for clip in clips} <= {min(2, sizes[prompt] - 1)}


def test_about_half_of_the_pairs_are_swapped_and_not_the_same_for_all() -> None:
    pairs = [Item(f"a{index}", f"b{index}") for index in range(400)]
    swapped = [[is_swapped(pair, 0, name) for pair in pairs] for name in ("Ann", "Bob")]
    assert all(150 < sum(of_annotator) < 250 for of_annotator in swapped)
    assert swapped[0] != swapped[1]
    assert swapped[0] == [is_swapped(pair, 0, "Ann") for pair in pairs]
