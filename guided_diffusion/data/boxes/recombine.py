"""New layouts from those of a split: the objects of one, some of them in the boxes of others of their class.

So the classes of a new layout, and how many of each there are, are those of a real one; and every box has size and
place of a real one of its class, moved and scaled a little. What lies on another object stays on it: its box is counted
in that of its host, which is placed first.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from guided_diffusion.conditions.base import Size
from guided_diffusion.conditions.layout import WHOLE_BOX
from guided_diffusion.data.boxes.asked import AskedLayout, AskedObject
from guided_diffusion.data.boxes.records import Corners
from guided_diffusion.runtime.seeding import Stream, derive_seed

EXCHANGED = 0.5
"""Probability that an object takes the box of one of its class in another layout."""
MOVED = 0.25
"""By which share of its size a box is moved at most, to either side."""
SCALED = 1.25
"""By which factor each side of a box is changed at most."""
DRAWS = 10
"""Of a box, until it overlaps others no more than boxes of its layout do; then it stays as it was."""
ON_HOST = 0.9
"""The share of a box in a larger one from which on it lies on that."""
_LEAST = 1e-3  # of width and height of an image that a box has


@dataclass(frozen=True)
class _Part:
    """An object of a layout, and its box in that of its host."""

    asked: AskedObject
    under: tuple[int, ...]
    """What it lies on, by the place in the layout's list of parts, which is from large to small."""
    within: Corners

    @property
    def host(self) -> int | None:
        """The smallest one that it lies on; None: the image."""
        return self.under[-1] if self.under else None


@dataclass(frozen=True)
class Recombiner:
    """Makes layouts of at least one layout, and knows whose objects each has.

    size: height and width of what the boxes are shares of, in pixels, where pictures do not fill it.
    """

    layouts: Sequence[AskedLayout]
    size: Size | None = None

    @cached_property
    def _parts(self) -> list[list[_Part]]:
        return [_parts_of(layout, self._picture(layout), self.size) for layout in self.layouts]

    def _picture(self, layout: AskedLayout) -> Corners:
        """Return the box of the picture, which has a border around it where it does not fill the image."""
        if layout.inside is None:
            return WHOLE_BOX
        assert self.size is not None, "which of its pixels are the picture's is known, but not how many there are"
        (top, bottom, left, right), (height, width) = layout.inside, self.size
        return left / width, top / height, right / width, bottom / height

    @cached_property
    def _like(self) -> dict[Hashable, list[tuple[int, Corners]]]:
        """The boxes in their hosts by their `_kind`, with the numbers of their layouts."""
        found: dict[Hashable, list[tuple[int, Corners]]] = {}
        for number, parts in enumerate(self._parts):
            for part in parts:
                found.setdefault(self._kind(number, part), []).append((number, part.within))
        return found

    def _kind(self, number: int, part: _Part) -> Hashable:
        """Return what boxes have in common that are exchanged: borders, and classes of background, host and object."""
        host = -1 if part.host is None else self._parts[number][part.host].asked.class_id
        return self.layouts[number].inside, _surface(self.layouts[number]), host, part.asked.class_id

    def make(self, seed: int, index: int) -> AskedLayout:
        """Return layout `index`, a function of the seed and this number."""
        rng = np.random.default_rng(derive_seed(Stream.LAYOUT, seed, index))
        number = int(rng.integers(len(self.layouts)))
        base, parts = self.layouts[number], self._parts[number]
        beside = [
            (parts[other], part) for at, part in enumerate(parts) for other in range(at) if other not in part.under
        ]
        allowed = max([_overlap(one.asked.box, two.asked.box) for one, two in beside], default=0.0)
        placed: list[Corners] = []
        donors, picture = [number], self._picture(base)
        for part in parts:
            host = picture if part.host is None else placed[part.host]
            others = [box for at, box in enumerate(placed) if at not in part.under]
            chosen = _in_picture(_mapped(part.within, host), picture)
            for _ in range(DRAWS):
                donor, within = self._drawn(number, part, rng)
                box = _in_picture(_mapped(within, host), picture)
                if all(_overlap(box, other) <= allowed for other in others):
                    chosen = box
                    donors.append(donor)
                    break
            placed.append(chosen)
        boxes = {part.asked.number: box for part, box in zip(parts, placed, strict=True)}
        own = [each for each in base.objects if not each.is_background]
        objects = [replace(each, style_seed=None) for each in base.objects if each.is_background]
        objects += [
            replace(each, box=boxes[each.number], number=at, style_seed=None) for at, each in enumerate(own, start=1)
        ]
        lineage = _joined([self.layouts[donor].lineage for donor in dict.fromkeys(donors)])
        return AskedLayout(f"sample_{index:06d}", tuple(objects), base.inside, lineage)

    def _drawn(self, number: int, part: _Part, rng: np.random.Generator) -> tuple[int, Corners]:
        """Return a box within its host for an object of layout `number`, and the number of the layout it is of."""
        exchange, pick, *change = rng.random(6).tolist()
        donor, within = number, part.within
        if exchange < EXCHANGED:
            like = self._like[self._kind(number, part)]
            donor, within = like[int(pick * len(like))]
        return donor, _changed(within, change)


def _parts_of(layout: AskedLayout, picture: Corners, size: Size | None) -> list[_Part]:
    """Return the objects from large to small, each with the smallest one that it lies on."""

    def within(box: Corners) -> Corners:
        if picture == WHOLE_BOX:
            return box
        # Borders of a picture are whole pixels, those of a box are not: half a pixel is none.
        half = [0.5 / (length * side) for length, side in zip(_lengths(picture), reversed(size or ()), strict=True)]
        sides = zip(_relative(box, picture), half * 2, strict=True)
        x0, y0, x1, y1 = (0.0 if abs(at) <= least else 1.0 if abs(at - 1) <= least else at for at, least in sides)
        return x0, y0, x1, y1

    own = sorted((each for each in layout.objects if not each.is_background), key=lambda each: -_area(each.box))
    parts: list[_Part] = []
    for at, each in enumerate(own):
        under = tuple(index for index in range(at) if _overlap(each.box, own[index].box) >= ON_HOST)
        parts.append(_Part(each, under, _relative(each.box, own[under[-1]].box) if under else within(each.box)))
    return parts


def _surface(layout: AskedLayout) -> int:
    """Return the class of the background, -1 without one."""
    return next((each.class_id for each in layout.objects if each.is_background), -1)


def _changed(box: Corners, draws: Sequence[float]) -> Corners:
    """Return a box scaled and moved by four numbers in [0, 1); a side at a border of its host stays there."""
    spans = []
    for low, high, scale, move in ((box[0], box[2], *draws[:2]), (box[1], box[3], *draws[2:])):
        length = min((high - low) * SCALED ** (2 * scale - 1), 1.0)
        if low <= 0 and high >= 1:
            spans.append((low, high))
        elif low <= 0:
            spans.append((low, low + length))
        elif high >= 1:
            spans.append((high - length, high))
        else:
            start = (low + high - length) / 2 + MOVED * (2 * move - 1) * (high - low)
            start = min(max(start, 0.0), 1.0 - length)
            spans.append((start, start + length))
    (x0, x1), (y0, y1) = spans
    return x0, y0, x1, y1


def _relative(box: Corners, host: Corners) -> Corners:
    """Return a box in shares of another one."""
    wide, high = host[2] - host[0], host[3] - host[1]
    return (box[0] - host[0]) / wide, (box[1] - host[1]) / high, (box[2] - host[0]) / wide, (box[3] - host[1]) / high


def _mapped(within: Corners, host: Corners) -> Corners:
    """Return the box of which `_relative` makes `within`."""
    wide, high = host[2] - host[0], host[3] - host[1]
    return (
        host[0] + within[0] * wide,
        host[1] + within[1] * high,
        host[0] + within[2] * wide,
        host[1] + within[3] * high,
    )


def _in_picture(box: Corners, picture: Corners) -> Corners:
    """Return what of a box is in the picture, at least a sliver at its border."""
    x0, y0 = (min(max(box[axis], picture[axis]), picture[2 + axis] - _LEAST) for axis in (0, 1))
    return x0, y0, min(max(box[2], x0 + _LEAST), picture[2]), min(max(box[3], y0 + _LEAST), picture[3])


def _lengths(box: Corners) -> tuple[float, float]:
    """Return width and height of a box."""
    return box[2] - box[0], box[3] - box[1]


def _area(box: Corners) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(one: Corners, two: Corners) -> float:
    """Return the shared area over that of the smaller box."""
    across, down = (min(one[2 + axis], two[2 + axis]) - max(one[axis], two[axis]) for axis in (0, 1))
    return max(0.0, across) * max(0.0, down) / min(_area(one), _area(two))


def _joined(lineages: Sequence[Any]) -> dict[str, Any] | None:
    """Return one lineage of several layouts of one split."""
    known = [dict(lineage) for lineage in lineages if lineage is not None]
    if not known:
        return None
    files = {key: [file for lineage in known for file in lineage.get(key, ())] for key in ("masks", "images")}
    unique = {key: list({file["digest"]: file for file in found}.values()) for key, found in files.items()}
    return {**known[0], **unique}
