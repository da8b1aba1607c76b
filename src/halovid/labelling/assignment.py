"""Who labels what, and in which order: pure functions of the seed and the annotator's name."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Item:
    """One thing to label: a clip, or a pair of clips."""

    first: str
    second: str = ""

    @property
    def is_pair(self) -> bool:
        """Whether two clips are compared."""
        return bool(self.second)


def in_order(items: Iterable[Item], common: Collection[Item], seed: int, annotator: str) -> list[Item]:
    """All items in this annotator's random order, whatever order they come in.

    Common items are spread evenly over it and follow each other as they do for everybody else, so that annotators who
    stop early have labelled the same ones: of n answers about `share` * n.
    """
    by_draw = sorted(items, key=lambda item: _draw(seed, "order", annotator, item.first, item.second))
    shared = sorted((item for item in by_draw if item in common), key=lambda item: _draw(seed, "common", *_names(item)))
    others = [item for item in by_draw if item not in common]
    places = {item: (index + 0.5) / len(group) for group in (shared, others) for index, item in enumerate(group)}
    return sorted(by_draw, key=places.__getitem__)


def common_items(items: Collection[Item], share: float, seed: int) -> frozenset[Item]:
    """The round(share * n) items that every annotator labels; each of the others is labelled by one."""
    drawn = sorted(items, key=lambda item: _draw(seed, "common", *_names(item)))
    return frozenset(drawn[: round(share * len(drawn))])


def remaining_items(
    ordered: Sequence[Item], common: Collection[Item], finished: Collection[Item], taken: Collection[Item]
) -> list[Item]:
    """The items that an annotator can still label, in the order of `ordered`.

    Args:
        common: items that every annotator labels.
        finished: items that this annotator has finished.
        taken: items that others have finished or are working on; only common ones are labelled once more.
    """
    return [item for item in ordered if item not in finished and (item in common or item not in taken)]


def ring_pairs(prompts: Mapping[str, Collection[str]], seed: int) -> list[Item]:
    """Pairs of clips of the same prompt: the clips of a prompt form a ring in random order, neighbours are paired.

    Each of n > 2 clips is in two pairs, so n comparisons cover all; all possible pairs would need n (n - 1) / 2.

    Args:
        prompts: prompt -> its clips.
    """
    pairs = []
    for prompt, clips in sorted(prompts.items()):
        ring = sorted(clips, key=lambda clip: _draw(seed, "ring", prompt, clip))
        pairs += [Item(first, second) for first, second in itertools.pairwise(ring)]
        if len(ring) > 2:
            pairs.append(Item(ring[-1], ring[0]))
    return pairs


def is_swapped(item: Item, seed: int, annotator: str) -> bool:
    """Whether this annotator sees the second clip of a pair on the left."""
    return _draw(seed, "side", annotator, item.first, item.second)[0] % 2 == 1


def _names(item: Item) -> tuple[str, str]:
    return item.first, item.second


def _draw(seed: int, *words: str) -> bytes:
    """Random bytes of the arguments alone; hashing lengths as well keeps ("ab", "c") apart from ("a", "bc")."""
    digest = hashlib.sha256(str(seed).encode())
    for word in words:
        encoded = word.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.digest()
