"""Whole images in pieces that a network takes: what each shows, and which pixels of the image are read from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.components import Box
from guided_diffusion.data.transforms import JointTransform, Placement

OVERLAP = 1 / 4
"""Of the side of a tile, at least."""


@dataclass(frozen=True)
class Tile:
    """A piece of an image.

    placement: what the network sees. box: the pixels of the image, at its own size, that it covers; they end outside
    of the image where there is a border. own: the part of the image that is read from this tile alone.
    """

    placement: Placement
    box: Box
    own: Box

    def cut(self, label: Tensor, border: int) -> Tensor:
        """Return the pixels of the box of a map of the image, [H, W]; `border` outside of the image."""
        result = torch.full(self.box.size, border, dtype=label.dtype)
        rows, columns = (
            slice(max(0, low), min(high, side))
            for low, high, side in (
                (self.box.top, self.box.bottom, label.shape[0]),
                (self.box.left, self.box.right, label.shape[1]),
            )
        )
        there = slice(rows.start - self.box.top, rows.stop - self.box.top)
        across = slice(columns.start - self.box.left, columns.stop - self.box.left)
        result[there, across] = label[rows, columns]
        return result


def tiles_of(size: Size, transform: JointTransform) -> list[Tile]:
    """Return the tiles of an image of `size` (height, width), row by row; their `own` parts are the whole image.

    squash and pad: one. crop and window: as many as show all of the image, which overlap by a quarter at least.
    """
    assert not transform.train
    placement = transform.place(size)
    axes = [
        _spans(old, full, length, offset)
        for old, full, length, offset in zip(size, placement.scaled, placement.size, placement.offset, strict=True)
    ]
    return [
        Tile(
            replace(placement, offset=(down.offset, across.offset)),
            Box(down.first, across.first, down.last, across.last),
            Box(down.own[0], across.own[0], down.own[1], across.own[1]),
        )
        for down, across in product(*axes)
    ]


@dataclass(frozen=True)
class _Span:
    """A tile along one axis: where it lies in the scaled image, what it covers of the image, and what it owns."""

    offset: int
    first: int
    last: int
    own: tuple[int, int]


def _spans(old: int, full: int, length: int, offset: int) -> list[_Span]:
    """Return the tiles of `length` along an axis of `old` pixels, scaled to `full`; a single one lies at `offset`."""
    offsets = [offset]
    if full > length:
        step = max(1, length - int(length * OVERLAP))
        count = 1 + -(-(full - length) // step)
        offsets = [round(number * (full - length) / (count - 1)) for number in range(count)]
    ratio = old / full
    covered = [(round(start * ratio), round((start + length) * ratio)) for start in offsets]
    # What two tiles share is divided in the middle, where both see the most around it.
    cuts = [0, *((last + first) // 2 for (_, last), (first, _) in pairwise(covered)), old]
    ends = zip(offsets, covered, pairwise(cuts), strict=True)
    return [_Span(start, first, last, own) for start, (first, last), own in ends]


def joined(parts: Sequence[Tensor | NDArray[np.generic]], tiles: Sequence[Tile], size: Size) -> NDArray[np.generic]:
    """Return a map [H, W] of the image put together of those of its tiles, each of the size of the tile's box."""
    arrays = [np.asarray(part) for part in parts]
    result = np.empty(size, arrays[0].dtype)
    for array, tile in zip(arrays, tiles, strict=True):
        result[tile.own.slices] = array[tile.own.within(tile.box).slices]
    return result
