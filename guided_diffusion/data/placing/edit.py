"""Edits of a part: scale, turn and bend its mask by a map of coordinates, which can warp its pixels as well."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from guided_diffusion.data.placing.bank import BankPart, Borders

_BEND = 1 / 12  # standard deviation of the bending, in its own wavelength: far from where it would fold
_SPACINGS = 4  # of the bending along the longer side of a part
_THIN = 2.5  # px from the outline to the middle of a line: the interpolation costs it much of its area
_SHALLOW = 0.4  # px by which the outline of a line may be moved to keep the area
_KEPT = 0.7  # of the area that the largest piece must have, or the edit has torn the part
_STRIP = 1 << 20  # pixels that are warped at a time
_PAD, _EDGE_PAD = 2, 8  # px


class EditLimits(NamedTuple):
    """How far parts are edited at random."""

    scale: float = 1.25
    """Largest factor of the size, 1 / scale being the smallest."""
    angle: float = 15.0
    """Degrees, to either side."""
    bending: float = 1.0
    """Strength of the bending; above 3 it may fold."""


USUAL_LIMITS = EditLimits()


@dataclass(frozen=True, eq=False)
class Bending:
    """A smooth random displacement: cubic B-splines with random coefficients."""

    coefficients: NDArray[np.float32]
    """[2, n, n] in px, down and across."""
    spacing: float
    start: tuple[float, float]
    """Where the first coefficient is, in px from the anchor of the part."""
    fixed: tuple[tuple[float, ...], tuple[float, ...]]
    """Borders, in px from the anchor, which nothing is moved away from: (horizontal ones, vertical ones)."""

    def shift(self, rows: NDArray, columns: NDArray) -> NDArray:
        """Return the displacement [2, H, W] at each pair of a row [H] and a column [W], in px from the anchor."""
        count = self.coefficients.shape[-1]
        weights = []
        for axis, positions in enumerate((rows, columns)):
            nodes = np.clip((positions - self.start[axis]) / self.spacing, 1, count - 2)
            distance = np.abs(nodes[:, None] - np.arange(count))
            near, far = 2 / 3 - distance**2 + distance**3 / 2, np.clip(2 - distance, 0, None) ** 3 / 6
            weights.append(np.where(distance < 1, near, far))
        shift = weights[0] @ self.coefficients @ weights[1].T
        for border in self.fixed[0]:
            shift[0] *= np.minimum(np.abs(rows - border) / self.spacing, 1)[:, None]
        for border in self.fixed[1]:
            shift[1] *= np.minimum(np.abs(columns - border) / self.spacing, 1)
        return shift


@dataclass(frozen=True, eq=False)
class EditedPart:
    """A part as it is placed; made by `edit_part`."""

    part: BankPart
    mask: NDArray[np.bool_] = field(repr=False)
    """[height, width]"""
    borders: Borders
    """The borders of the good image that it has to touch."""
    origin: tuple[int, int]
    """First row and column of the mask, in px from the anchor."""
    anchor: tuple[float, float]
    """The point of the source image that the anchor stands for: (y, x), 0 being its upper left corner."""
    matrix: NDArray[np.float64]
    """[2, 2]: from px of the edited part to px of the source image."""
    bending: Bending | None

    def position(self, center: tuple[float, float], size: tuple[int, int]) -> tuple[int, int]:
        """Return (top, left) in the good image of `size`, with the center as near to (y, x) as possible.

        It touches its borders and keeps 1 px from the others.
        """
        corner = []
        for axis in (0, 1):
            first, last = self.borders.along(axis)
            length, room = self.mask.shape[axis], size[axis]
            wanted = round(center[axis] - length / 2)
            corner.append(0 if first else room - length if last else min(max(wanted, 1), room - 1 - length))
        return corner[0], corner[1]

    def fits(self, size: tuple[int, int]) -> bool:
        """Return whether it can lie in an image of (height, width) and touch its borders alone."""
        touched = (sum(self.borders.along(axis)) for axis in (0, 1))
        lengths = zip(self.mask.shape, size, touched, strict=True)
        return all(length == room if ends == 2 else length <= room - 2 + ends for length, room, ends in lengths)

    def source_of(self, rows: NDArray, columns: NDArray) -> NDArray[np.float64]:
        """Return the indices [2, H, W] in the source image of rows [H] and columns [W], which count from `origin`."""
        down, across = rows + self.origin[0] + 0.5, columns + self.origin[1] + 0.5
        if self.bending is None:
            shift_down, shift_across = np.zeros((1, 1)), np.zeros((1, 1))
        else:
            shift_down, shift_across = self.bending.shift(down, across)
        down, across = down[:, None] + shift_down, across + shift_across
        where = [
            line[0] * down + line[1] * across + start - 0.5
            for line, start in zip(self.matrix, self.anchor, strict=True)
        ]
        return np.stack(where)

    def warp(self, image: NDArray, margin: int = 0, *, beyond: float | None = None) -> NDArray[np.float32]:
        """Return the part of its source image [H, W(, C)] that lies under the mask and `margin` px around it.

        The result is [height + 2 margin, width + 2 margin(, C)], bilinear. beyond: the value of what lies outside the
        image; None: its border is repeated.
        """
        options = {"mode": "nearest"} if beyond is None else {"mode": "constant", "cval": beyond}
        height, width = self.mask.shape
        rows, columns = np.arange(-margin, height + margin), np.arange(-margin, width + margin)
        planes = image[..., None] if image.ndim == 2 else image
        warped = np.empty((len(rows), len(columns), planes.shape[-1]), np.float32)
        for strip, where in self._strips(rows, columns):
            for channel in range(planes.shape[-1]):
                plane = planes[..., channel]
                warped[strip, :, channel] = ndimage.map_coordinates(plane, where, np.float32, order=1, **options)
        return warped[..., 0] if image.ndim == 2 else warped

    def _strips(self, rows: NDArray, columns: NDArray) -> Iterator[tuple[slice, NDArray]]:
        """Yield a few rows at a time with `source_of` them: coordinates need 16 bytes a pixel."""
        step = max(1, _STRIP // max(1, len(columns)))
        for start in range(0, len(rows), step):
            strip = slice(start, start + step)
            yield strip, self.source_of(rows[strip], columns)


def draw_edit(
    part: BankPart,
    size: tuple[int, int],
    rng: np.random.Generator,
    limits: EditLimits = USUAL_LIMITS,
    *,
    scale: float = 1.0,
) -> EditedPart | None:
    """Return a random edit of a part for an image of (height, width); unedited where the edit tears it.

    scale: a factor of its size beside the random one. None if it does not fit in there.
    """
    most = math.log(limits.scale)
    factor, angle = scale * math.exp(rng.uniform(-most, most)), rng.uniform(-limits.angle, limits.angle)
    edited = edit_part(part, size, scale=factor, angle=angle, bend=rng, strength=limits.bending)
    return edited or edit_part(part, size, scale=scale)


def edit_part(
    part: BankPart,
    size: tuple[int, int],
    *,
    scale: float = 1.0,
    angle: float = 0.0,
    bend: np.random.Generator | None = None,
    strength: float = 1.0,
    loose: bool = False,
) -> EditedPart | None:
    """Return a part scaled, turned by `angle` degrees (only if it touches no border) and bent at random by `strength`.

    It is made to span an image of (height, width) where it spanned its own, and smaller where it does not fit.
    loose: it need not touch the borders that it did. None where the edit tears it, or it does not fit.
    """
    borders = Borders() if loose else part.borders
    factors = (scale, scale) if loose else _factors(part, size, scale)
    if min(factors) <= 0:
        return None
    turn = 0.0 if any(borders) else math.radians(angle)
    cosine, sine = math.cos(turn), math.sin(turn)
    matrix = np.array([[cosine, sine], [-sine, cosine]]) / np.array(factors)[:, None]
    anchor = _anchor(part, borders, 0), _anchor(part, borders, 1)
    if bend is None and turn == 0 and factors == (1, 1):
        origin = part.box.top - anchor[0], part.box.left - anchor[1]
        edited = EditedPart(part, part.mask, borders, origin, anchor, matrix, None)
        return edited if loose or edited.fits(size) else None
    down, across = part.box.size[0] * factors[0], part.box.size[1] * factors[1]
    lengths = abs(cosine) * down + abs(sine) * across, abs(sine) * down + abs(cosine) * across
    bending = None if bend is None else _draw_bending(lengths, borders, size, bend, strength)
    slack = _PAD + (0 if bending is None else bending.spacing / 2)
    canvas = [_canvas(length + slack, borders.along(axis), size[axis]) for axis, length in enumerate(lengths)]
    blank = np.zeros([len(line) for line in canvas], bool)
    edited = EditedPart(part, blank, borders, (canvas[0].start, canvas[1].start), anchor, matrix, bending)
    drawn = _drawn(edited, part.area * factors[0] * factors[1])
    return drawn if drawn is not None and (loose or drawn.fits(size)) else None


def _factors(part: BankPart, size: tuple[int, int], scale: float) -> tuple[float, float]:
    """Return the factors (down, across) of a part's size: `scale`, or what makes it span, or fit."""
    factors = []
    for axis in (0, 1):
        first, last = part.borders.along(axis)
        ratio, length = size[axis] / part.image_size[axis], part.box.size[axis]
        room = size[axis] - (not first) - (not last)
        if first and last:
            factors.append(ratio)
        elif length * scale <= room:
            factors.append(scale)
        else:  # as large as it can be; a part that is too large at its own size is made smaller as the image is
            factors.append(room / length if length <= room else min(ratio, room / length))
    return (factors[0], factors[1]) if any(part.borders) else (min(factors), min(factors))


def _anchor(part: BankPart, borders: Borders, axis: int) -> int:
    """Return the coordinate, in the source image, of what stays in place: the border or the middle of the part."""
    first, last = borders.along(axis)
    if first or last:
        return 0 if first else part.image_size[axis]
    return ((part.box.top + part.box.bottom) if axis == 0 else (part.box.left + part.box.right)) // 2


def _canvas(length: float, touched: tuple[bool, bool], size: int) -> range:
    """Return the px from the anchor, along one axis, in which a part of so many px can lie."""
    first, last = touched
    if first and last:
        return range(size)
    if first or last:
        reach = min(math.ceil(length), size - 1)  # not to the other border
        return range(reach) if first else range(-reach, 0)
    return range(-math.ceil(length / 2), math.ceil(length / 2) + 1)


def _draw_bending(
    lengths: tuple[float, float],
    borders: Borders,
    size: tuple[int, int],
    rng: np.random.Generator,
    strength: float = 1.0,
) -> Bending:
    """Draw the bending of a part whose box has `lengths`; borders that it touches stay where they are."""
    spacing, count = max(4.0, max(lengths) / _SPACINGS), _SPACINGS + 4
    # The weights of cubic B-splines halve the standard deviation.
    coefficients = rng.normal(0, 2 * strength * _BEND * spacing, (2, count, count)).astype(np.float32)
    start, fixed = [], []
    for axis in (0, 1):
        first, last = borders.along(axis)
        middle = 0.0 if not (first or last) else lengths[axis] / 2 if first else -lengths[axis] / 2
        start.append(middle - (count - 1) / 2 * spacing)
        fixed.append((0.0, float(size[axis])) if first and last else (0.0,) if first or last else ())
    return Bending(coefficients, spacing, (start[0], start[1]), (fixed[0], fixed[1]))


def _drawn(blank: EditedPart, area: float) -> EditedPart | None:
    """Return a part with the mask that its map gives within the canvas of `blank`; about `area` px are wanted.

    None if the map tears it or takes it off its borders.
    """
    part, (height, width) = blank.part, blank.mask.shape
    distance, (top, left) = _signed_distance(part.mask, blank.borders)
    offset = np.array([part.box.top - top, part.box.left - left])[:, None, None]
    warped = np.empty((height, width), np.float32)
    for strip, where in blank._strips(np.arange(height), np.arange(width)):
        warped[strip] = ndimage.map_coordinates(distance, where - offset, np.float32, order=1, mode="nearest")
    level = 0.0
    if distance.max() < _THIN:  # a line can lie between the pixels: the outline moves a little to keep the area
        inside, wanted = warped[warped > -_SHALLOW], max(1, round(area))
        level = -_SHALLOW if wanted > len(inside) else np.partition(inside, len(inside) - wanted)[len(inside) - wanted]
    numbered, count = ndimage.label(warped >= min(level, _SHALLOW), np.ones((3, 3)))
    if count == 0:
        return None
    areas = np.bincount(numbered.ravel())[1:]
    largest = int(np.argmax(areas)) + 1
    down, across = ndimage.find_objects(numbered)[largest - 1]
    mask = numbered[down, across] == largest
    at_ends = Borders(down.start == 0, across.start == 0, down.stop == height, across.stop == width)
    left_border = any(touched and not at_end for touched, at_end in zip(blank.borders, at_ends, strict=True))
    if areas[largest - 1] < _KEPT * area or left_border:
        return None
    return replace(blank, mask=mask, origin=(blank.origin[0] + down.start, blank.origin[1] + across.start))


def _signed_distance(mask: NDArray[np.bool_], borders: Borders) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Return the distance of each pixel to the outline, above 0 inside, and the (rows, columns) padded before it.

    The mask goes on beyond the borders that it touches.
    """
    outside = [[0 if touched else _PAD for touched in borders.along(axis)] for axis in (0, 1)]
    beyond = [[_EDGE_PAD if touched else 0 for touched in borders.along(axis)] for axis in (0, 1)]
    mask = np.pad(np.pad(mask, outside), beyond, mode="edge")
    corner = outside[0][0] + beyond[0][0], outside[1][0] + beyond[1][0]
    if mask.all():
        return np.ones(mask.shape, np.float32), corner
    distance = np.where(mask, ndimage.distance_transform_edt(mask) - 0.5, 0.5 - ndimage.distance_transform_edt(~mask))
    return distance.astype(np.float32), corner
