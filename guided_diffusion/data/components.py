"""The connected parts of a label map: single defects, as windows are laid on them and masks are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from guided_diffusion.data.counting import distinct_values

_EIGHT_NEIGHBORS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels; `bottom` and `right` are the first row and column outside it."""

    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def around(cls, mask: NDArray[np.bool_]) -> Self:
        """Return the smallest box around the pixels of a mask [H, W], which has some."""
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        return cls(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """The index of its pixels in an array [H, W]."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def moved(self, down: int, across: int) -> Self:
        return type(self)(self.top + down, self.left + across, self.bottom + down, self.right + across)

    def within(self, outer: Box) -> Self:
        """Return it in the coordinates of a box that holds it."""
        return self.moved(-outer.top, -outer.left)

    def grown(self, pixels: int) -> Self:
        """Return it with so many pixels more on each side, which may lie outside the image."""
        return type(self)(self.top - pixels, self.left - pixels, self.bottom + pixels, self.right + pixels)

    def inside(self, size: Sequence[int]) -> Self:
        """Return the part of it that an image of (height, width) has."""
        return type(self)(max(0, self.top), max(0, self.left), min(size[0], self.bottom), min(size[1], self.right))

    def framed(self, wanted: Sequence[int], size: Sequence[int]) -> Self:
        """Return the box of (height, width) `wanted` around its middle, moved and cut to lie in an image of `size`."""
        height, width = map(min, wanted, size)
        top = min(max((self.top + self.bottom - height) // 2, 0), size[0] - height)
        left = min(max((self.left + self.right - width) // 2, 0), size[1] - width)
        return type(self)(top, left, top + height, left + width)

    def shared(self, other: Box) -> Self | None:
        """Return the pixels that both have, None where there are none."""
        rows = max(self.top, other.top), min(self.bottom, other.bottom)
        columns = max(self.left, other.left), min(self.right, other.right)
        if rows[0] >= rows[1] or columns[0] >= columns[1]:
            return None
        return type(self)(rows[0], columns[0], rows[1], columns[1])


@dataclass(frozen=True, eq=False)
class Component:
    """The pixels of one class that touch each other, corners included."""

    class_id: int
    box: Box
    mask: NDArray[np.bool_]
    """[height, width] of the box: which of its pixels belong to it."""

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.mask.sum())


def find_components(label: NDArray[np.integer], classes: Sequence[int]) -> list[Component]:
    """Return the 8-connected components of `classes` in a label map [H, W], by class, then from top to bottom."""
    components = []
    present = set(distinct_values(label).tolist())
    for class_id in sorted(present.intersection(classes)):
        whole = label == class_id
        around = Box.around(whole)  # in its box only: a large image may have one small defect
        top, left = around.top, around.left
        numbered, _ = ndimage.label(whole[around.slices], _EIGHT_NEIGHBORS)
        for number, (down, across) in enumerate(ndimage.find_objects(numbered), start=1):
            box = Box(top + down.start, left + across.start, top + down.stop, left + across.stop)
            components.append(Component(class_id, box, numbered[down, across] == number))
    return components
