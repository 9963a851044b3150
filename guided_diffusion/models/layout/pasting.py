"""Masks of objects, square in their boxes, as maps of an image of any size: two small matrix products each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from guided_diffusion.conditions.base import Size

CELLS = 16
"""Rows and columns of an object's mask."""


class AxisShares(NamedTuple):
    """What the pixels along one axis of a map have of the boxes.

    cells: [N, O, pixels, CELLS], the weight of each row or column of the mask in each pixel. inside: [N, O, pixels],
    how much of the pixel is inside of the box, 0 to 1.
    """

    cells: Tensor
    inside: Tensor


Axis = Callable[[Tensor, Tensor, int], AxisShares]
"""(low, high [N, O]: the ends of boxes along an axis of length 1; number of pixels) -> `AxisShares`."""


def pixel_shares(low: Tensor, high: Tensor, count: int) -> AxisShares:
    """Return the means over each of `count` pixels.

    A mask is interpolated linearly between the centers of its cells, has the values of the outer cells up to the border
    of its box, and is zero outside. As means, not samples, they keep objects that are smaller than a pixel.
    """
    edges = torch.arange(count + 1, device=low.device, dtype=low.dtype) / count
    length = (high - low)[..., None].clamp_min(torch.finfo(low.dtype).eps)
    position = (edges - low[..., None]) / length * CELLS
    within = position.clamp(0, CELLS)
    mass = _mass(within[..., 1:]) - _mass(within[..., :-1])
    cells = mass / (position[..., 1:] - position[..., :-1])[..., None]
    return AxisShares(cells, cells.sum(-1))


def _mass(position: Tensor) -> Tensor:
    """Return the integral of each cell's weight up to `position` [...] in 0..CELLS, but for a constant, [..., CELLS].

    The weight of a cell falls from 1 at its center to 0 at the next one; beyond the outer centers it stays 1.
    """
    centers = torch.arange(CELLS, device=position.device, dtype=position.dtype) + 0.5
    distance = (position[..., None] - centers).clamp(-1, 1)
    mass = distance - distance * distance.abs() / 2
    mass[..., 0] = torch.where(distance[..., 0] < 0, distance[..., 0], mass[..., 0])
    mass[..., -1] = torch.where(distance[..., -1] > 0, distance[..., -1], mass[..., -1])
    return mass


def paste(mask: Tensor, box: Tensor, size: Size, axis: Axis = pixel_shares) -> tuple[Tensor, Tensor]:
    """Return masks [N, O, CELLS, CELLS] of boxes [N, O, 4] as maps of `size`, and the boxes as such maps.

    Both are [N, O, H, W]. box: x0, y0, x1, y1 as shares of width and height.
    """
    x0, y0, x1, y1 = box.to(mask.dtype).unbind(-1)
    rows, columns = axis(y0, y1, size[0]), axis(x0, x1, size[1])
    pasted = rows.cells @ mask @ columns.cells.transpose(2, 3)
    return pasted, rows.inside[..., None] * columns.inside[..., None, :]
