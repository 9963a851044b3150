"""What label maps are described by, class by class: areas, components and their shapes, places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from evaluations.sets import Labels

Floats = NDArray[np.float64]

HEAT = 32  # cells a side of a heat map
_BLUR = HEAT / 20  # standard deviation, in cells
_SPECK = 3  # px
SHAPE = ("area", "perimeter", "thickness", "eccentricity", "extent")
"""The columns of `ClassFacts.shapes`; the first three are logarithms to base 2 of shares of the map."""


@dataclass(frozen=True, eq=False)
class ClassFacts:
    """One class in one label map; its n components are 8-connected."""

    area: float
    """Logarithm to base 2 of the share of the pixels."""
    shapes: Floats
    """[n, 5], as SHAPE says."""
    centers: Floats
    """[n, 2], down and across, in 0..1."""
    heat: Floats
    """[32, 32]: the blurred share of each cell that it covers."""
    specks: int
    """Components of fewer than 3 px."""


@dataclass(frozen=True, eq=False)
class MaskFacts:
    """One label map, by the classes that it shows."""

    classes: Mapping[int, ClassFacts]

    @property
    def specks(self) -> int:
        """Components of fewer than 3 px."""
        return sum(facts.specks for facts in self.classes.values())


def describe_mask(label: Labels, num_classes: int, background: int = 0) -> MaskFacts:
    """Return the facts of a label map [H, W] in `0..num_classes`; neither background nor null id counts."""
    counts = np.bincount(label.ravel(), minlength=num_classes + 1)
    counts[[background, num_classes]] = 0
    return MaskFacts({class_id: _facts(label == class_id) for class_id in np.flatnonzero(counts).tolist()})


def _facts(mask: NDArray[np.bool_]) -> ClassFacts:
    size = np.array(mask.shape, np.float64)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    corner = np.array([rows[0], columns[0]])
    # One pixel of border: components end at the border of the map.
    box = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    numbered, count = ndimage.label(box, np.ones((3, 3)))
    number, areas = np.arange(1, count + 1), np.bincount(numbered.ravel())[1:]
    thickness = 2 * ndimage.maximum(ndimage.distance_transform_edt(box), numbered, number)
    y, x = np.nonzero(numbered)
    own = numbered[y, x] - 1

    def mean(values: NDArray) -> Floats:
        return np.bincount(own, values, minlength=count) / areas

    middle = np.stack([mean(y), mean(x)], axis=1)
    boxes = [down.stop - down.start for down, _ in ndimage.find_objects(numbered)]
    widths = [across.stop - across.start for _, across in ndimage.find_objects(numbered)]
    shapes = [
        np.log2(areas / size.prod()),
        np.log2(_perimeters(numbered, count) / size.sum()),
        np.log2(thickness / np.sqrt(size.prod())),
        _eccentricity(y - middle[own, 0], x - middle[own, 1], mean),
        areas / (np.array(boxes) * np.array(widths)),
    ]
    return ClassFacts(
        float(np.log2(areas.sum() / size.prod())),
        np.stack(shapes, axis=1),
        (middle - 1 + corner + 0.5) / size,
        ndimage.gaussian_filter(coverage(mask, HEAT), _BLUR, mode="nearest"),
        int((areas < _SPECK).sum()),
    )


def _perimeters(numbered: NDArray[np.integer], count: int) -> Floats:
    """Return the number of pixel sides at the rim of each component of a map with an empty border."""
    total = np.zeros(count + 1)
    for first, second in ((numbered[1:], numbered[:-1]), (numbered[:, 1:], numbered[:, :-1])):
        differ = first != second
        total += np.bincount(first[differ], minlength=count + 1) + np.bincount(second[differ], minlength=count + 1)
    return total[1:]


def _eccentricity(down: Floats, across: Floats, mean) -> Floats:
    """Return that of the ellipses of equal second moments, 0: a circle, towards 1: a line."""
    # A pixel is a square, whose own variance is 1/12.
    yy, xx, xy = mean(down**2) + 1 / 12, mean(across**2) + 1 / 12, mean(down * across)
    root = np.sqrt((yy - xx) ** 2 / 4 + xy**2)
    return np.sqrt(1 - np.clip(((yy + xx) / 2 - root) / ((yy + xx) / 2 + root), 0, 1))


def coverage(mask: NDArray[np.bool_], side: int) -> Floats:
    """Return the share of each of [side, side] cells that a mask [H, W] covers; a cell has whole pixels."""
    share = mask.astype(np.float64)
    for axis in (0, 1):
        length = share.shape[axis]
        if length < side:
            share = share.take((2 * np.arange(side) + 1) * length // (2 * side), axis=axis)
        else:
            starts = np.arange(side) * length // side
            widths = np.diff([*starts, length])
            share = np.add.reduceat(share, starts, axis=axis) / np.expand_dims(widths, 1 - axis)
    return share


def class_sets(masks: Sequence[MaskFacts]) -> list[frozenset[int]]:
    """Return the classes that each mask shows."""
    return [frozenset(mask.classes) for mask in masks]
