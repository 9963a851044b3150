"""Outlines of masks through the centers of their border pixels, from which the same pixels are filled again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from guided_diffusion.data.components import Component, find_components
from guided_diffusion.data.formats.regions import Bits

_STEPS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
"""Row and column of the eight neighbors, clockwise from the right one."""
INSIDE = 0.25
"""Pixels that corners lie inside their pixel, so that readers that cut off the fraction find it."""


def without_holes(mask: Bits) -> list[tuple[int, int, Bits]]:
    """Return the parts (top, left, bits) that a connected mask is cut into so that none has a hole.

    Cuts run along rows, through the middle of a hole: background that the mask encloses without a diagonal gap.
    """
    holes, count = ndimage.label(ndimage.binary_fill_holes(mask) & ~mask)
    if not count:
        return [(0, 0, mask)]
    rows = ndimage.find_objects(holes)[0][0]
    cut = (rows.start + rows.stop) // 2
    parts = []
    for top, half in ((0, mask[:cut]), (cut, mask[cut:])):
        for component in find_components(half.astype(np.uint8), (1,)):
            for inner_top, inner_left, bits in without_holes(component.mask):
                parts.append((top + component.box.top + inner_top, component.box.left + inner_left, bits))
    return parts


def outline(mask: Bits) -> NDArray[np.int64]:
    """Return the border pixels [N, 2] (x, y) of a connected mask, clockwise: the boundary of Moore's neighborhood.

    Points in the middle of a straight run are left out.
    """
    padded = np.pad(mask, 1)
    start = tuple(np.argwhere(padded)[0].tolist())
    row, column = start
    points, heading, first = [], 0, None
    while True:
        for turn in range(8):
            direction = (heading + turn) % 8
            down, right = _STEPS[direction]
            if padded[row + down, column + right]:
                break
        else:  # a single pixel
            return np.array([[column - 1, row - 1]])
        if (row, column) == start and direction == first:
            break
        first = direction if first is None else first
        points.append((column - 1, row - 1, direction))
        row, column = row + down, column + right
        # The neighbor before the one found is empty: the search goes on from there.
        heading = (direction + (6 if direction % 2 == 0 else 5)) % 8
    turned = [point for before, point in zip([points[-1], *points[:-1]], points, strict=True) if before[2] != point[2]]
    return np.array([point[:2] for point in turned])


def corners(component: Component) -> tuple[list[NDArray[np.float64]], int]:
    """Return outlines [N, 2] in pixels of the image, without holes, whose corners cut off are the border pixels; and
    the number of holes.

    Where an outline has no extent it encloses half a pixel, as readers drop what has no area.
    """
    rings = []
    _, holes = ndimage.label(ndimage.binary_fill_holes(component.mask) & ~component.mask)
    for top, left, bits in without_holes(component.mask):
        corner = np.array([component.box.left + left, component.box.top + top])
        points = corner + outline(bits)
        low, high = points.min(0), points.max(0)
        if (low == high).any():
            (x0, y0), (x1, y1) = low + INSIDE, high + 1 - INSIDE
            rings.append(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]))
        elif len(points) == 2:  # a diagonal: the third corner is in the pixel of the second
            rings.append(np.concatenate([points + INSIDE, points[1:] + (1 - INSIDE)]))
        else:
            rings.append(points + INSIDE)
    return rings, holes
