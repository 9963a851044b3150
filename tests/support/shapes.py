"""Images on which a segmenter learns in seconds what is what: bright and dark squares on noise."""

from __future__ import annotations

import numpy as np

from evaluations.sets import ImageSet


def shapes(count: int, *, side: int = 32, seed: int = 0, prefix: str = "shape") -> ImageSet:
    """Return images with one square of class 1 (bright) or 2 (dark) each on gray noise; 3 classes."""
    rng = np.random.default_rng(seed)
    images = rng.integers(110, 146, (count, side, side, 3), dtype=np.uint8)
    labels = np.zeros((count, side, side), np.uint8)
    for index in range(count):
        length = int(rng.integers(side // 4, side // 2))
        top, left = rng.integers(0, side - length, 2)
        window = (index, slice(top, top + length), slice(left, left + length))
        labels[window] = 1 + index % 2
        images[window] = 240 if index % 2 == 0 else 20
    return ImageSet(images, labels, tuple(f"{prefix}{index}" for index in range(count)), 3)
