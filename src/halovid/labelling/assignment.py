"""Who labels what, and in which order: functions of the seed and the annotator's name."""

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


def in_order(items: Iterable[Item], seed: int, annotator: str) -> list[Item]:
    """All items in the random order of this annotator; it does not depend on how they came."""
    return sorted(items, key=lambda item: _draw(seed, "order", annotator, item.first, item.second))


def common_items(items: Collection[Item], share: float, seed: int) -> frozenset[Item]:
    """The items that every annotator labels: round(share * n) of them. The others are labelled once."""
    drawn = sorted(items, key=lambda item: _draw(seed, "common", item.first, item.second))
    return frozenset(drawn[: round(share * len(drawn))])


def to_do(
    ordered: Sequence[Item], common: Collection[Item], own: Collection[Item], taken: Collection[Item]
) -> list[Item]:
    """What is left for an annotator, first things first.

    Args:
        own: items that this annotator has finished.
        taken: items that others have finished or are at work on; only those in common are labelled once more.
    """
    return [item for item in ordered if item not in own and (item in common or item not in taken)]


def ring_pairs(prompts: Mapping[str, Collection[str]], seed: int) -> list[Item]:
    """Pairs of clips of the same prompt: each clip meets two others, in a ring of random order.

    As many pairs as clips compare all of them, where all pairs would be far more.

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


def is_turned(item: Item, seed: int, annotator: str) -> bool:
    """Whether this annotator sees the second clip of a pair on the left."""
    return _draw(seed, "side", annotator, item.first, item.second)[0] % 2 == 1


def _draw(seed: int, *words: str) -> bytes:
    """A random number of its arguments alone; no two lists of words run into each other."""
    digest = hashlib.sha256(str(seed).encode())
    for word in words:
        data = word.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()
