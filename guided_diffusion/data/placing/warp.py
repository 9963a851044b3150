"""Bending of a whole label map: where every pixel has a class, nothing can be moved without moving the rest."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from guided_diffusion.data.placing.edit import Bending

_SPACING = 1 / 2  # of the splines, in longer sides of the map
_SHARE = 1 / 2  # standard deviation of the bending, in spacings
_LEAST = 0.25  # factor of area: at 0 the map folds
_STEPS = 64  # along the longer side, at which it is measured
_WEAKER = 0.85  # times the bending that folds the map
_HALVINGS = 5  # of the bending where it loses a class


def bend_map(
    label: NDArray[np.integer], rng: np.random.Generator, null_id: int, strength: float = 1.0
) -> NDArray[np.integer]:
    """Return a label map [H, W] bent at random, its borders staying at the borders.

    It shows the same classes; ignored pixels stay where they are. Where a class would be lost it is bent less.
    """
    height, width = label.shape
    ignored = label == null_id
    if ignored.all():
        return label.copy()
    full = label
    if ignored.any():
        nearest = ndimage.distance_transform_edt(ignored, return_distances=False, return_indices=True)
        full = label[tuple(nearest)]
    spacing = max(4.0, _SPACING * max(height, width))
    count = math.ceil(max(height, width) / spacing) + 4
    # The weights of cubic B-splines halve the standard deviation.
    coefficients = rng.normal(0, 2 * _SHARE * strength * spacing, (2, count, count)).astype(np.float32)
    start = tuple(length / 2 - (count - 1) / 2 * spacing for length in (height, width))
    bending = Bending(coefficients, spacing, (start[0], start[1]), ((0.0, float(height)), (0.0, float(width))))
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    shift = bending.shift(rows, columns)
    while _squeezed(shift) < _LEAST:
        shift *= _WEAKER
    present = set(np.unique(label).tolist())
    for halving in range(_HALVINGS):
        part = shift / 2**halving
        down = np.clip((rows[:, None] + part[0]).astype(np.intp), 0, height - 1)
        across = np.clip((columns + part[1]).astype(np.intp), 0, width - 1)
        bent = full[down, across]
        bent[ignored] = null_id
        if set(np.unique(bent).tolist()) == present:
            return bent
    return label.copy()


def _squeezed(shift: NDArray) -> float:
    """Return the least factor of area, the smallest determinant, of a map whose pixels are read [2, H, W] px away."""
    step = max(1, max(shift.shape[1:]) // _STEPS)
    sparse = shift[:, ::step, ::step] / step
    if min(sparse.shape[1:]) < 2:
        return 1.0
    by_row, by_column = np.gradient(sparse, axis=(1, 2))
    return float(((1 + by_row[0]) * (1 + by_column[1]) - by_row[1] * by_column[0]).min())
