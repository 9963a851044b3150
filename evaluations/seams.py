"""Seams: how much larger the steps across the rim of a painted or pasted hole are than in the untouched image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def rim_jump(result: Image, good: Image, hole: Mask) -> float | None:
    """Return the mean of |result[p] - result[q]| over that of |good[p] - good[q]|; 1 where nothing changed.

    Both means are over the channels and all pairs of 4-neighbors p inside the hole [H, W] and q outside it.
    None where all |good[p] - good[q]| are 0 or there is no pair: the hole is empty or the whole image.
    """
    assert result.shape == good.shape
    usual = rim_difference(good, hole)
    found = rim_difference(result, hole)
    return found / usual if found is not None and usual else None


def rim_jumps(cases: Iterable[tuple[Image, Image, Mask]]) -> RimJumps:
    """Return the median and quartiles of `rim_jump` over the cases (result, good, hole), one for each hole."""
    return RimJumps.of(rim_jump(*case) for case in cases)


def rim_difference(image: Image, hole: Mask) -> float | None:
    """Return the mean absolute difference over the channels and all pairs of 4-neighbors, one of them in the hole.

    In the units of the image; None where there is no pair. Reads the box of the hole only.
    """
    assert hole.dtype == np.bool_
    assert image.shape[:2] == hole.shape
    box = tuple(_reach(hole.any(axis=axis)) for axis in (1, 0))
    values, inside = image[box].astype(np.float64), hole[box]
    steps = []
    for axis in (0, 1):
        crossed = np.diff(inside, axis=axis)  # of booleans: where they differ
        steps.append(np.abs(np.diff(values, axis=axis))[crossed].ravel())
    joined = np.concatenate(steps)
    return float(joined.mean()) if joined.size else None


def _reach(occupied: Mask) -> slice:
    """Return the part of an axis from one pixel before the first occupied one to one behind the last."""
    places = np.flatnonzero(occupied)
    return slice(max(int(places[0]) - 1, 0), int(places[-1]) + 2) if len(places) else slice(0)
