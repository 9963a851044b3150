"""Label maps as published studies read them: resized, and without regions too small to learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PUBLISHED_MIN_REGION = 20


def resize_nearest(label: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.integer]:
    """Return a label map [H, W] at `size`; pixel i is pixel floor(i * old / new), which is not what Pillow takes."""
    rows, columns = (np.arange(new) * old // new for old, new in zip(label.shape, size, strict=True))
    return label[np.ix_(rows, columns)]


def without_small(label: NDArray[np.integer], ignored: int, least: int) -> NDArray[np.integer]:
    """Return a label map in which a class with fewer than `least` pixels is `ignored`; published: 20."""
    values, counts = np.unique(label, return_counts=True)
    return np.where(np.isin(label, values[counts < least]), np.asarray(ignored, label.dtype), label)
