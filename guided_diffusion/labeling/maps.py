"""Feature maps of an image at their native resolution, read at single pixels as if they were upsampled."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

NativeMap = Tensor | NDArray[np.floating]
"""[C, h, w] float16 or float32, best as a view of [h, w, C] memory: another order is copied once. May be a memmap."""


Corners = dict[tuple[int, int], tuple[Tensor, Tensor]]
"""For each size of maps: index [P, 4] and weight [P, 4] of the cells that pixels lie between."""


class ImageMaps:
    """The feature maps of one image, which together describe each of its pixels by `dim` numbers.

    size: height and width of the image in pixels; the maps may be of any other sizes.
    """

    def __init__(self, maps: Sequence[NativeMap], size: tuple[int, int]):
        self.size = size
        tensors = [_tensor(each) for each in maps]
        self.sides = [(each.shape[1], each.shape[2]) for each in tensors]
        self.tables = [each.permute(1, 2, 0).flatten(0, 1) for each in tensors]
        """[h * w, C] each, a row for each position."""

    @property
    def dims(self) -> list[int]:
        """Channels of each map."""
        return [table.shape[1] for table in self.tables]

    @property
    def dim(self) -> int:
        """Numbers that describe a pixel."""
        return sum(self.dims)

    def read(self, positions: Tensor) -> Tensor:
        """Return the features [P, dim], float32, of pixels; positions [P] int64: row * width + column.

        Equals bilinear upsampling (align_corners false) to the size of the image, within 1e-3 for float16 maps.
        """
        return self.read_at(corners_at(positions, self.size, self.sides))

    def read_at(self, corners: Corners) -> Tensor:
        """Return the features [P, dim], float32, of pixels of which `corners_at` tells where in the maps they lie."""
        parts = []
        for table, side in zip(self.tables, self.sides, strict=True):
            index, weight = (each.to(table.device) for each in corners[side])
            weight = weight.to(table.dtype)
            parts.append(F.embedding_bag(index, table, mode="sum", per_sample_weights=weight).float())
        return torch.cat(parts, dim=1)


def _tensor(values: NativeMap) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    with warnings.catch_warnings():  # of memmaps opened for reading: nothing is written here
        warnings.filterwarnings("ignore", message=".*not writable", category=UserWarning)
        return torch.from_numpy(values)


@lru_cache(maxsize=64)
def axis(pixels: int, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for each of `pixels`, the lower and upper of the `cells` it lies between, and the weight of the upper.

    As `interpolate(mode="bilinear", align_corners=False)` has them: the source of pixel i is (i + 0.5) cells / pixels
    - 0.5, at least 0, and the upper cell is at most the last.
    """
    source = ((torch.arange(pixels, dtype=torch.float64) + 0.5) * cells / pixels - 0.5).clamp(min=0)
    lower = source.long().clamp(max=cells - 1)
    return lower, (lower + 1).clamp(max=cells - 1), (source - lower).float()


def corners_at(positions: Tensor, size: tuple[int, int], sides: Sequence[tuple[int, int]]) -> Corners:
    """Return where pixels of an image of `size` lie in its maps of `sides`; positions as in `ImageMaps.read`."""
    rows, columns = positions // size[1], positions % size[1]
    return {side: _corners(rows, columns, size, side) for side in set(sides)}


def _corners(rows: Tensor, columns: Tensor, size: tuple[int, int], side: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return index and weight [P, 4] of the cells around pixels."""
    (top, bottom, down), (left, right, across) = (
        [each[at] for each in axis(pixels, cells)]
        for at, pixels, cells in zip((rows, columns), size, side, strict=True)
    )
    pairs = [(top, left), (top, right), (bottom, left), (bottom, right)]
    index = torch.stack([row * side[1] + column for row, column in pairs], dim=1)
    ys, xs = torch.stack([1 - down, down], dim=1), torch.stack([1 - across, across], dim=1)
    return index, (ys[:, :, None] * xs[:, None]).flatten(1)
