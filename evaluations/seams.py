"""Seams: how much larger the steps across the rim of a painted or pasted hole are than in the untouched image.

Where the painting sets in gradually, over `width` pixels, the steps from each of these pixels' contours to the next one
count, as the seam is spread over them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[Any]
"""[H, W] or [H, W, C], integers or floats."""
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class RimJumps:
    """Median and quartiles of the rim jumps of `count` holes; None without any. `left_out`: holes without a jump."""

    count: int
    left_out: int
    lower: float | None
    median: float | None
    upper: float | None

    @staticmethod
    def of(jumps: Iterable[float | None]) -> RimJumps:
        """Summarize the answers of `rim_jump`; quartiles are interpolated linearly."""
        answers = list(jumps)
        values = [jump for jump in answers if jump is not None]
        quartiles = np.quantile(values, (0.25, 0.5, 0.75)).tolist() if values else (None, None, None)
        return RimJumps(len(values), len(answers) - len(values), *quartiles)


def rim_jump(result: Image, good: Image, hole: Mask, width: int = 1) -> float | None:
    """Return the mean of |result[p] - result[q]| over that of |good[p] - good[q]|; 1 where nothing changed.

    Both means are over the channels and the pairs p, q of `rim_difference`, of a hole [H, W]. None where all
    |good[p] - good[q]| are 0 or there is no pair: the hole is empty or the whole image.
    """
    assert result.shape == good.shape
    usual = rim_difference(good, hole, width)
    found = rim_difference(result, hole, width)
    return found / usual if found is not None and usual else None


def rim_difference(image: Image, hole: Mask, width: int = 1) -> float | None:
    """Return the mean absolute difference over the channels and all pairs of 4-neighbors, one of them in the hole.

    In the units of the image; None where there is no pair. Reads the box of the hole only. width: counts the pairs of
    two different distances from the outside, rounded up, that are not both beyond the first `width` pixels.
    """
    assert width >= 1
    assert hole.dtype == np.bool_
    assert image.shape[:2] == hole.shape
    box = tuple(_reach(hole.any(axis=axis)) for axis in (1, 0))
    values, depth = image[box].astype(np.float64), hole[box].astype(np.int64)
    if width > 1 and not depth.all():
        depth = np.minimum(np.ceil(ndimage.distance_transform_edt(depth)), width)
    steps = []
    for axis in (0, 1):
        crossed = np.diff(depth, axis=axis) != 0
        steps.append(np.abs(np.diff(values, axis=axis))[crossed].ravel())
    joined = np.concatenate(steps)
    return float(joined.mean()) if joined.size else None


def _reach(occupied: Mask) -> slice:
    """Return the part of an axis from one pixel before the first occupied one to one behind the last."""
    places = np.flatnonzero(occupied)
    return slice(max(int(places[0]) - 1, 0), int(places[-1]) + 2) if len(places) else slice(0)
