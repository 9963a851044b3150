"""How often each value occurs in a large array of small integers: counted in parts, which is faster than sorting."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_PART = 1 << 16  # values counted at a time, as counting makes them 64-bit integers; these fit into a core's cache


def value_counts(values: NDArray[np.integer], size: int = 0) -> NDArray[np.int64]:
    """Return how often 0, 1, ... occur in an array without negative values; at least `size` counts."""
    flat = values.reshape(-1)
    size = max(size, int(flat.max()) + 1 if flat.size else 0)
    counts = np.zeros(size, np.int64)
    for start in range(0, len(flat), _PART):
        counts += np.bincount(flat[start : start + _PART], minlength=size)
    return counts


def distinct_values(values: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return the sorted distinct values of an array."""
    if values.size and values.min() < 0:  # as of pixels that are of no class
        return np.unique(values)
    return np.flatnonzero(value_counts(values))
