"""New layouts from those of a split: the objects of one, some of them in the boxes of others of their class.

So the classes of a new layout, and how many of each there are, are those of a real one; and every box has size and
place of a real one of its class, moved and scaled a little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

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


@dataclass(frozen=True)
class Recombiner:
    """Makes layouts of at least one layout, and knows whose objects each has."""

    layouts: Sequence[AskedLayout]

    @cached_property
    def _boxes(self) -> dict[tuple[int, int], list[tuple[int, AskedObject]]]:
        """The objects by (class of their background, own class), with the numbers of their layouts."""
        found: dict[tuple[int, int], list[tuple[int, AskedObject]]] = {}
        for number, layout in enumerate(self.layouts):
            for each in _foreground(layout):
                found.setdefault((_surface(layout), each.class_id), []).append((number, each))
        return found

    def make(self, seed: int, index: int) -> AskedLayout:
        """Return layout `index`, a function of the seed and this number."""
        rng = np.random.default_rng(derive_seed(Stream.LAYOUT, seed, index))
        number = int(rng.integers(len(self.layouts)))
        base = self.layouts[number]
        own = _foreground(base)
        allowed = max([_overlap(one.box, two.box) for one in own for two in own if one is not two], default=0.0)
        kept = list(own)
        donors = [number]
        for place, each in enumerate(own):
            others = [other.box for at, other in enumerate(kept) if at != place]
            for _ in range(DRAWS):
                donor, box = self._drawn(number, each, rng)
                if all(_overlap(box, other) <= allowed for other in others):
                    kept[place] = replace(each, box=box)
                    donors.append(donor)
                    break
        objects = [each for each in base.objects if each.is_background]
        objects += [replace(each, number=at, style_seed=None) for at, each in enumerate(kept, start=1)]
        lineage = _joined([self.layouts[donor].lineage for donor in dict.fromkeys(donors)])
        return AskedLayout(f"sample_{index:06d}", tuple(objects), base.inside, lineage)

    def _drawn(self, number: int, each: AskedObject, rng: np.random.Generator) -> tuple[int, Corners]:
        """Return a box for an object of layout `number`, and the number of the layout that it is of."""
        exchange, pick, *change = rng.random(6).tolist()
        donor, box = number, each.box
        if exchange < EXCHANGED:
            like = self._boxes[_surface(self.layouts[number]), each.class_id]
            donor, other = like[int(pick * len(like))]
            box = other.box
        return donor, _changed(box, change)


def _foreground(layout: AskedLayout) -> list[AskedObject]:
    return [each for each in layout.objects if not each.is_background]


def _surface(layout: AskedLayout) -> int:
    """Return the class of the background, -1 without one: boxes are exchanged on one kind of surface."""
    return next((each.class_id for each in layout.objects if each.is_background), -1)


def _changed(box: Corners, draws: Sequence[float]) -> Corners:
    """Return a box scaled and moved by four numbers in [0, 1); a side at a border of the image stays there."""
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


def _overlap(one: Corners, two: Corners) -> float:
    """Return the shared area over that of the smaller box."""
    across, down = (min(one[2 + axis], two[2 + axis]) - max(one[axis], two[axis]) for axis in (0, 1))
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, two))
    return max(0.0, across) * max(0.0, down) / smaller if smaller > 0 else 1.0


def _joined(lineages: Sequence[Any]) -> dict[str, Any] | None:
    """Return one lineage of several layouts of one split."""
    known = [dict(lineage) for lineage in lineages if lineage is not None]
    if not known:
        return None
    files = {key: [file for lineage in known for file in lineage.get(key, ())] for key in ("masks", "images")}
    unique = {key: list({file["digest"]: file for file in found}.values()) for key, found in files.items()}
    return {**known[0], **unique}
