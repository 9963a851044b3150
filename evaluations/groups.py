"""Groups of images that show one object, which are no independent evidence: drawn together, and kept in one split."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Groups = Sequence[Hashable | None]
"""The group of each image; None for an image of its own."""


def numbered(groups: Groups | None, images: int) -> NDArray[np.int64]:
    """Return the number of the group of each image, [images], from 0 on in the order of their first images.

    groups: None where every image is of its own.
    """
    numbers: dict[Hashable, int] = {}
    each = [None] * images if groups is None else groups
    assert len(each) == images
    keys = [("image", index) if group is None else ("group", group) for index, group in enumerate(each)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def count_groups(numbers: NDArray[np.int64], chosen: NDArray[np.bool_]) -> int:
    """Return how many groups have one of the chosen images at least; both [images]."""
    return len(np.unique(numbers[chosen]))
