"""The areas that annotations outline, as pixels; which pixels an outline covers is a rule of its format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from guided_diffusion.conditions.base import Size

Bits = NDArray[np.bool_]
Ring = NDArray[np.float64]
"""Corners [N, 2] of an outline, x and y in pixels from the top left corner of the image."""
Rule = Literal["centers", "corners"]
"""centers: a pixel is covered where its center is inside (COCO, CVAT, Label Studio). corners: the corners are pixels,
which are covered with everything between them, borders included (LabelMe, YOLO)."""

ELLIPSE_CORNERS = 180
"""Of the polygon that stands for an ellipse or a circle."""
LARGEST_RADIUS = 25_000
"""Pixels up to which PIL draws circles: its numbers of 64 bits hold the fourth power of a diameter."""
FARTHEST = 1_000_000
"""Pixels from the image beyond which a coordinate is a mistake."""


@dataclass(frozen=True, eq=False)
class Painted:
    """The covered pixels of an image, in a box of it; `bits` [h, w] begins at row `top` and column `left`."""

    top: int
    left: int
    bits: Bits
    cut: bool = False
    """Whether a part of the area is outside the image."""
    outside: bool = False
    """Whether all of it is."""


class Region(Protocol):
    """An area of an image."""

    def paint(self, size: Size) -> Painted:
        """Return the covered pixels of an image of this height and width; ValueError where it does not fit one."""


NOWHERE = Painted(0, 0, np.zeros((0, 0), bool), cut=True, outside=True)


def ring_of(numbers: Sequence[float]) -> Ring:
    """Return the outline of x, y, x, y, ...; ValueError where a number is missing, not finite, or absurd."""
    if len(numbers) % 2:
        raise ValueError(f"{len(numbers)} coordinates, an odd number")
    ring = np.asarray(numbers, np.float64).reshape(-1, 2)
    if not np.isfinite(ring).all() or np.abs(ring).max(initial=0) > FARTHEST:
        raise ValueError(f"a coordinate is not a number of pixels below {FARTHEST}")
    return ring


@dataclass(frozen=True, eq=False)
class Polygons:
    """The union of what some outlines enclose, by the even-odd rule in each."""

    rings: tuple[Ring, ...]
    rule: Rule

    def paint(self, size: Size) -> Painted:
        height, width = size
        points = np.concatenate(self.rings)
        if self.rule == "corners":
            # A pixel is the integer below, as integer conversion of the tools has it.
            points = np.trunc(points)
        low, high = points.min(0), points.max(0)
        reach = 1 if self.rule == "corners" else 0
        if (high + reach <= 0).any() or low[0] >= width or low[1] >= height:
            return NOWHERE
        cut = bool((low < 0).any() or high[0] + reach > width or high[1] + reach > height)
        left, top = np.clip(np.floor(low), 0, (width - 1, height - 1)).astype(int).tolist()
        right, bottom = np.clip(np.ceil(high) + reach, (left + 1, top + 1), (width, height)).astype(int).tolist()
        fill = _between_corners if self.rule == "corners" else _of_centers
        bits = np.zeros((bottom - top, right - left), bool)
        for ring in self.rings:
            bits |= fill(ring, top, left, bits.shape)
        return Painted(top, left, bits, cut)


def _of_centers(ring: Ring, top: int, left: int, shape: tuple[int, int]) -> Bits:
    """Return the pixels whose centers are inside; of a center on the outline one side counts, so that neighbors that
    share an outline share no pixel and leave none out.
    """
    height, width = shape
    x0, y0 = (ring - (left, top)).T
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    # Rows whose center y is in [upper, lower) of an edge cross it.
    first = np.ceil(np.minimum(y0, y1) - 0.5).clip(0, height).astype(np.int64)
    last = np.ceil(np.maximum(y0, y1) - 0.5).clip(0, height).astype(np.int64)
    count = last - first
    edge = np.repeat(np.arange(len(ring)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    along = (row + 0.5 - y0[edge]) / (y1 - y0)[edge]
    crossing = x0[edge] + along * (x1 - x0)[edge]
    column = np.ceil(crossing - 0.5).clip(0, width).astype(np.int64)
    toggles = np.zeros((height, width + 1), np.int64)
    np.add.at(toggles, (row, column), 1)
    return (np.cumsum(toggles, axis=1) % 2 == 1)[:, :width]


def _between_corners(ring: Ring, top: int, left: int, shape: tuple[int, int]) -> Bits:
    picture = Image.new("1", (shape[1], shape[0]))
    corners = [(int(x) - left, int(y) - top) for x, y in ring]
    draw = ImageDraw.Draw(picture)
    if len(corners) < 3:
        draw.line([*corners, corners[0]], fill=1)
    else:
        draw.polygon(corners, fill=1, outline=1)
    return np.array(picture)


@dataclass(frozen=True, eq=False)
class Disc:
    """A circle by the rule "corners", whose pixels are those that PIL draws, as LabelMe does."""

    center: tuple[float, float]
    radius: float

    def paint(self, size: Size) -> Painted:
        if not self.radius < LARGEST_RADIUS:
            raise ValueError(f"its circle has a radius of {self.radius:.0f} pixels, not below {LARGEST_RADIUS}")
        height, width = size
        (x, y), radius = self.center, self.radius
        x0, y0, x1, y1 = (int(number) for number in (x - radius, y - radius, x + radius, y + radius))
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1 + 1, width), min(y1 + 1, height)
        if left >= right or top >= bottom:
            return NOWHERE
        picture = Image.new("1", (right - left, bottom - top))
        ImageDraw.Draw(picture).ellipse((x0 - left, y0 - top, x1 - left, y1 - top), fill=1, outline=1)
        return Painted(top, left, np.array(picture), cut=(left, top, right, bottom) != (x0, y0, x1 + 1, y1 + 1))


def refuse_other_size(own: Size, size: Size) -> None:
    """Raise ValueError for a mask of another height and width than the image, of which it is all."""
    if own != size:
        raise ValueError(f"its mask is {own[1]}x{own[0]} pixels, the image {size[1]}x{size[0]}")


@dataclass(frozen=True, eq=False)
class Bitmap:
    """Pixels that are listed one by one, in a box of the image; `read` decodes them, [height, width] of `size`."""

    size: Size
    read: Callable[[], Bits]
    top: int = 0
    left: int = 0
    whole: bool = False
    """Whether the box has to be the image."""

    def paint(self, size: Size) -> Painted:
        height, width = self.size
        if self.whole:
            refuse_other_size(self.size, size)
        if height > size[0] or width > size[1]:
            raise ValueError(f"its mask of {width}x{height} pixels is larger than the image")
        if self.top >= size[0] or self.left >= size[1] or self.top + height <= 0 or self.left + width <= 0:
            return NOWHERE
        top, left = max(self.top, 0), max(self.left, 0)
        rows = slice(top - self.top, min(self.top + height, size[0]) - self.top)
        columns = slice(left - self.left, min(self.left + width, size[1]) - self.left)
        bits = self.read()
        if bits.shape != self.size:
            raise ValueError(f"its mask has {bits.shape[1]}x{bits.shape[0]} pixels, not {width}x{height}")
        inside = bits[rows, columns]
        return Painted(top, left, inside, cut=inside.sum() < bits.sum())


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Ring:
    """Return the outline of a rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)


def ellipse(center: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0) -> Ring:
    """Return the outline of an ellipse, as a polygon. degrees: by which it is turned clockwise, as pictures show it."""
    angles = np.linspace(0, 2 * np.pi, ELLIPSE_CORNERS, endpoint=False)
    turn = np.radians(degrees)
    x, y = radii[0] * np.cos(angles), radii[1] * np.sin(angles)
    around = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=1)
    return np.array(center) + around
