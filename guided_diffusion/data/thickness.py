"""How thick the parts of each class are: what is thinner than two pixels of a latent does not come through."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_EIGHT_NEIGHBORS = np.ones((3, 3), dtype=bool)
LATENTS = 2
"""Pixels of the latent that the median part of a class has to be thick."""
FACTORS = (8, 4)


def class_thickness(labels: Iterable[NDArray[np.integer]], num_classes: int) -> NDArray[np.float64]:
    """Return for each class the median thickness in pixels of its 8-connected components in label maps [H, W].

    [num_classes]; NaN for a class without any. Thickness: twice the radius of the largest inscribed circle.
    """
    found: list[list[float]] = [[] for _ in range(num_classes)]
    for label in labels:
        for class_id in np.unique(label).tolist():
            if class_id < num_classes:
                found[class_id] += _thickness(label == class_id)
    return np.array([np.median(values) if values else np.nan for values in found])


def _thickness(mask: NDArray[np.bool_]) -> list[float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    # One pixel of border: components end at the border of the map.
    box = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    numbered, number = ndimage.label(box, _EIGHT_NEIGHBORS)
    radii = ndimage.maximum(ndimage.distance_transform_edt(numbered), numbered, np.arange(1, number + 1))
    return [2 * float(radius) for radius in radii]


def too_thin(thickness: Sequence[float], factor: int, background: int) -> list[int]:
    """Return the classes other than the background whose median part is thinner than `LATENTS` latents, 1 each `factor`
    pixels.
    """
    return [
        index
        for index, value in enumerate(thickness)
        if index != background and not np.isnan(value) and value < LATENTS * factor
    ]


def fitting_factor(thickness: Sequence[float], background: int) -> int | None:
    """Return the largest of `FACTORS` for which no class is too thin, None if there is none."""
    return next((factor for factor in FACTORS if not too_thin(thickness, factor, background)), None)
