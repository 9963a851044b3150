"""What the studio's page does to label maps, written anew with numpy, scipy and whole numbers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Labels = NDArray[np.integer]


def _centers(shape: tuple[int, int]) -> tuple[Labels, Labels]:
    """Return x and y [H, W] of the centers of pixels, in half pixels."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.int64)
    return 2 * x + 1, 2 * y + 1


def disc_stroke(shape: tuple[int, int], points: list[list[float]], diameter: int) -> NDArray[np.bool_]:
    """Return what a disc covers on its way: centers no farther than its radius from the line through its places."""
    if diameter % 2:
        places = [(2 * math.floor(x) + 1, 2 * math.floor(y) + 1) for x, y in points]
    else:
        places = [(2 * math.floor(x + 0.5), 2 * math.floor(y + 0.5)) for x, y in points]
    x, y = _centers(shape)
    covered = np.zeros(shape, bool)
    for (ax, ay), (bx, by) in zip(places, places[1:] or places, strict=False):
        covered |= (x - ax) ** 2 + (y - ay) ** 2 <= diameter**2
        covered |= (x - bx) ** 2 + (y - by) ** 2 <= diameter**2
        dx, dy = bx - ax, by - ay
        along, across = (x - ax) * dx + (y - ay) * dy, (y - ay) * dx - (x - ax) * dy
        length = dx * dx + dy * dy
        covered |= (along >= 0) & (along <= length) & (across**2 <= diameter**2 * length) & (length > 0)
    return covered


def enclosed(shape: tuple[int, int], points: list[list[float]]) -> NDArray[np.bool_]:
    """Return the pixels around whose centers the closed line through the nearest corners of `points` winds."""
    corners = [(2 * math.floor(x + 0.5), 2 * math.floor(y + 0.5)) for x, y in points]
    x, y = _centers(shape)
    winding = np.zeros(shape, int)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        # A ray to the right: edges that go down count 1, those that go up -1. Multiplied by the edge's height.
        side = (bx - ax) * (y - ay) - (x - ax) * (by - ay)
        winding += (ay < y) & (y < by) & (side > 0)
        winding -= (by < y) & (y < ay) & (side < 0)
    return winding != 0


def region(labels: Labels, x: int, y: int) -> NDArray[np.bool_]:
    """Return the 4-connected region of one label at a pixel."""
    numbers, _ = ndimage.label(labels == labels[y, x])
    return numbers == numbers[y, x]


def regions(labels: Labels) -> list[NDArray[np.bool_]]:
    """Return all 4-connected regions of one label."""
    found = []
    for label in np.unique(labels):
        numbers, count = ndimage.label(labels == label)
        found += [numbers == number for number in range(1, count + 1)]
    return found


def around(labels: Labels, mask: NDArray[np.bool_], otherwise: int) -> int:
    """Return the label most pixels next to a region have, of equal ones the smallest."""
    rim = labels[ndimage.binary_dilation(mask) & ~mask]
    return int(np.bincount(rim).argmax()) if rim.size else otherwise


def holes_filled(labels: Labels, label: int, background: int) -> Labels:
    """Return labels in which parts of the background that a class alone surrounds have that class."""
    result = labels.copy()
    numbers, count = ndimage.label(labels == background)
    for number in range(1, count + 1):
        mask = numbers == number
        border = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
        rim = labels[ndimage.binary_dilation(mask) & ~mask]
        if label != background and not border and rim.size and (rim == label).all():
            result[mask] = label
    return result


def pinholes_filled(labels: Labels, reference: Labels) -> Labels:
    """Return labels in which regions below four pixels that are not in `reference` have the label around them."""
    result = labels.copy()
    for mask in regions(labels):
        if mask.sum() < 4 and (labels[mask] != reference[mask]).any():
            result[mask] = around(labels, mask, int(labels[mask][0]))
    return result


def boxed(labels: Labels, left: list[int]) -> Labels:
    """Return labels in which every region is its box, the largest drawn first, those of the labels `left` not."""
    boxes = []
    for mask in regions(labels):
        ys, xs = np.nonzero(mask)
        label = int(labels[ys[0], xs[0]])
        if label not in left:
            first = int(np.flatnonzero(mask)[0])
            area = (np.ptp(xs) + 1) * (np.ptp(ys) + 1)
            boxes.append((-area, first, label, slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)))
    result = labels.copy()
    for _, _, label, rows, columns in sorted(boxes, key=lambda box: box[:2]):
        result[rows, columns] = label
    return result


def moved(labels: Labels, x: int, y: int, background: int, edit: dict) -> Labels:
    """Return labels of which the region at a pixel is lifted, edited and put down again."""
    mask = region(labels, x, y)
    label = int(labels[y, x])
    result = labels.copy()
    result[mask] = around(labels, mask, background)
    ys, xs = np.nonzero(mask)
    piece = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    center = xs.min() + piece.shape[1] / 2 + edit["dx"], ys.min() + piece.shape[0] / 2 + edit["dy"]
    result[placed(labels.shape, piece, center, edit)] = label
    return result


def placed(shape: tuple[int, int], piece: NDArray, center: tuple[float, float], edit: dict) -> NDArray[np.bool_]:
    """Return the pixels of which the nearest one of the piece, flipped, scaled and turned about `center`, is set."""
    margin = 100  # a piece that lies outside of the map is no piece that is too small to be seen
    quarter = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}.get(edit["angle"] % 360)
    radians = math.radians(edit["angle"])
    cos, sin = quarter or (math.cos(radians), math.sin(radians))
    y, x = np.mgrid[-margin : shape[0] + margin, -margin : shape[1] + margin] + 0.5
    dx, dy = x - center[0], y - center[1]
    # Back by the inverse of the turn, then of the scale, then of the flip.
    u, v = (cos * dx + sin * dy) / edit["scale"], (cos * dy - sin * dx) / edit["scale"]
    u, v = (-u if edit["flipX"] else u), (-v if edit["flipY"] else v)
    column, row = np.floor(u + piece.shape[1] / 2 + 1e-9), np.floor(v + piece.shape[0] / 2 + 1e-9)
    inside = (column >= 0) & (row >= 0) & (column < piece.shape[1]) & (row < piece.shape[0])
    result = np.zeros(x.shape, bool)
    result[inside] = piece[row[inside].astype(int), column[inside].astype(int)] > 0
    if not result.any():
        result[math.floor(center[1]) + margin, math.floor(center[0]) + margin] = True
    return result[margin:-margin, margin:-margin]
