"""The holes that an inpainting network learns to fill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from guided_diffusion.data.components import find_components

GROWN_BY = (2, 10)
"""Pixels by which a hole is larger than the foreground in it."""
_ONE_CLASS = 0.5
_BOXES = 0.25  # share of the foreground holes that are the bounding boxes of its components


@dataclass(frozen=True)
class HoleMaker:
    """Draws the hole of a window.

    shares: of holes over the foreground, of random rectangles, and of holes over everything.
    classes: the foreground. Half of its holes are over one class alone: a defect is painted on what surrounds it, which
    may be of another class.
    """

    shares: tuple[float, float, float]
    classes: tuple[int, ...]

    def __call__(self, label: Tensor, draw: Iterator[float]) -> Tensor:
        """Return which pixels of a window are to be filled, booleans [H, W], at least one.

        label: class ids [H, W]. draw: random numbers in [0, 1). A window without foreground gets a rectangle.
        """
        kind = next(draw) * sum(self.shares)
        present = np.intersect1d(np.unique(label.numpy()), self.classes)
        if kind < self.shares[0] and present.size:
            if next(draw) < _ONE_CLASS:
                present = present[[int(next(draw) * len(present))]]
            foreground = np.isin(label.numpy(), present)
            radius = GROWN_BY[0] + next(draw) * (GROWN_BY[1] - GROWN_BY[0])
            hole = grown(foreground, radius)
            return torch.from_numpy(_boxes(hole) if next(draw) < _BOXES else hole)
        if kind >= self.shares[0] + self.shares[1]:
            return torch.ones_like(label, dtype=torch.bool)
        return torch.from_numpy(_rectangle(label.shape, draw))


def grown(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Return which pixels [H, W] are within `radius` pixels of the mask, which has any."""
    return ndimage.distance_transform_edt(~mask) <= radius


def _boxes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the mask with the bounding boxes of its components filled."""
    filled = mask.copy()
    for component in find_components(mask.astype(np.uint8), (1,)):
        filled[component.box.slices] = True
    return filled


def _rectangle(size: Sequence[int], draw: Iterator[float]) -> NDArray[np.bool_]:
    """Return a random rectangle of an eighth of each side up to all of it."""
    hole = np.zeros(tuple(size), dtype=bool)
    spans = []
    for side in size:
        length = max(1, round(side * (0.125 + 0.875 * next(draw))))
        start = int(next(draw) * (side - length + 1))
        spans.append(slice(start, start + length))
    hole[tuple(spans)] = True
    return hole
