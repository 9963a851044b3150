"""Which images of a dataset are for testing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray


def count_in_test(number: int, share: float) -> int:
    """Return how many of `number` items are for testing, with at least one for testing and one for training."""
    return min(max(round(number * share), 1), number - 1)


def rarest_values(values: Sequence[Sequence[int]]) -> list[int]:
    """Return for the values of each image the one that is in the fewest images, the smallest of several."""
    images = Counter(value for present in values for value in set(present))
    return [min(present, key=lambda value: (images[value], value)) for present in values]


def draw_test(groups: Sequence[Hashable], test_share: float, seed: int) -> NDArray[np.bool_]:
    """Return which of N >= 2 items are for testing, [N]: `test_share` of them and of every group, by chance within it.

    A group's share is rounded up or down. An item that is alone in its group is for training, unless too few are left.
    """
    size = Counter(groups)
    number = count_in_test(len(groups), test_share)
    pool = [index for index, group in enumerate(groups) if size[group] > 1]
    if len(pool) < number:
        pool = list(range(len(groups)))
    generator = np.random.default_rng(seed)
    ranks = generator.permutation(len(groups))
    place = {group: position for position, group in enumerate(dict.fromkeys(groups))}
    pool.sort(key=lambda index: (size[groups[index]], place[groups[index]], ranks[index]))
    # Systematic sampling: every (len(pool) / number)-th of the ordered pool, from a random start.
    positions = ((np.arange(number) + generator.random()) * len(pool) / number).astype(int)
    chosen = np.zeros(len(groups), dtype=bool)
    chosen[np.asarray(pool)[positions]] = True
    return chosen


def draw_test_groups(
    values: Sequence[Sequence[int]], groups: Sequence[int], test_share: float, seed: int
) -> NDArray[np.bool_]:
    """Return which of N images are for testing, [N]: whole groups, of the rarest values by `draw_test`.

    values: those of each image. groups: the number of the group of each image, from 0 on, of at least two.
    """
    shown: list[set[int]] = [set() for _ in range(1 + max(groups))]
    for present, group in zip(values, groups, strict=True):
        shown[group].update(present)
    return draw_test(rarest_values([sorted(present) for present in shown]), test_share, seed)[list(groups)]
