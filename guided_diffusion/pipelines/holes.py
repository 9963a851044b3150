"""The holes of one image: masks with a margin, joined where they meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.components import Box


@dataclass(frozen=True)
class Hole:
    """What is to be painted anew: the pixels of `mask`, [h, w] of the box, and the margin around them."""

    box: Box
    mask: NDArray[np.bool_]


class GrownHole(NamedTuple):
    """A hole as it is painted: arrays [h, w] of a box that is a pixel wider, as far as the image goes."""

    box: Box
    mask: NDArray[np.bool_]  # the hole before it was grown
    hole: NDArray[np.bool_]


def grow_hole(hole: Hole, pixels: int, size: Size) -> GrownHole:
    """Return all within so many pixels of a hole that is not empty, in an image of `size`."""
    return _grown([hole], hole.box.grown(pixels + 1).inside(size), pixels)


def grow_holes(holes: Sequence[Hole], pixels: int, size: Size) -> list[GrownHole]:
    """Return the holes of an image of `size`, grown by so many pixels; those that meet are one."""
    groups: list[tuple[Box, list[Hole]]] = []
    for hole in holes:
        box, members = hole.box.grown(pixels + 1).inside(size), [hole]
        while near := [group for group in groups if group[0].shared(box)]:
            groups = [group for group in groups if not group[0].shared(box)]
            box = _around([box, *(other for other, _ in near)])
            members = [member for _, others in near for member in others] + members
        groups.append((box, members))
    return [part for box, members in groups for part in _parts(_grown(members, box, pixels))]


def part_of(holes: Sequence[GrownHole], box: Box) -> Tensor:
    """Return which pixels of a box of the image are in one of `holes`, [1, h, w] of 0 and 1, float64."""
    inside = np.zeros(box.size)
    for hole in holes:
        if both := box.shared(hole.box):
            view = inside[both.within(box).slices]
            view[hole.hole[both.within(hole.box).slices]] = 1
    return torch.from_numpy(inside)[None]


def _grown(holes: Sequence[Hole], box: Box, pixels: int) -> GrownHole:
    mask = np.zeros(box.size, dtype=bool)
    for hole in holes:
        mask[hole.box.within(box).slices] |= hole.mask
    return GrownHole(box, mask, ndimage.distance_transform_edt(~mask) <= pixels)


def _parts(group: GrownHole) -> list[GrownHole]:
    """Return the connected parts of a group of holes."""
    numbered, count = ndimage.label(group.hole)
    if count == 1:
        return [group]
    parts = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(numbered), start=1):
        part = Box(rows.start, columns.start, rows.stop, columns.stop).grown(1).inside(group.box.size)
        own = numbered[part.slices] == number
        parts.append(GrownHole(part.moved(group.box.top, group.box.left), group.mask[part.slices] & own, own))
    return parts


def _around(boxes: Sequence[Box]) -> Box:
    return Box(
        min(box.top for box in boxes),
        min(box.left for box in boxes),
        max(box.bottom for box in boxes),
        max(box.right for box in boxes),
    )
