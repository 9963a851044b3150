"""Reduction by area: a pixel of the smaller picture is the mean of what it covers, and takes a class by its cover.

All sums are exact: a pixel of the reduced picture covers `old / new` pixels, which in units of 1/new is a whole number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from guided_diffusion.conditions.base import Size
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.data.components import Box

Span = tuple[int, int]
"""First row (column) of the reduced picture, and the first after the last."""

LEAST_COVER = (7, 20)
"""0.35: a class other than the background takes a pixel of which it covers at least this share, so that a defect
thinner than the reduced pixel survives."""


def reduced_size(size: Sequence[int], scale: float) -> Size:
    """Return the size of an image of (height, width) at `scale`."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def cover_sums(values: Tensor, reduced: Size, rows: Span, columns: Span) -> Tensor:
    """Return the sums of [..., H, W] over the pixels of a picture reduced to the size `reduced`, of a part of these.

    int64 for integers and booleans, else float64, [..., rows, columns]; a pixel of ones alone has the sum H * W.
    """
    size = (values.shape[-2], values.shape[-1])
    box = covered(size, reduced, rows, columns)
    return _cover_sums(values[(..., *box.slices)], box, size, reduced, rows, columns)


def covered(size: Size, reduced: Size, rows: Span, columns: Span) -> Box:
    """Return the pixels of a picture of `size` that a part of the reduced picture covers, wholly or in part."""
    (top, bottom), (left, right) = (
        (span[0] * old // new, -(-span[1] * old // new))
        for span, old, new in zip((rows, columns), size, reduced, strict=True)
    )
    return Box(top, left, bottom, right)


def reduce_part(part: Tensor, size: Size, reduced: Size, rows: Span, columns: Span) -> Tensor:
    """Return the means, float64, over a part of a picture reduced from `size` to `reduced`.

    part: [..., h, w], what `covered` says of it.
    """
    box = covered(size, reduced, rows, columns)
    return _cover_sums(part.double(), box, size, reduced, rows, columns) / (size[0] * size[1])


def enlarge_part(values: Tensor, size: Size, reduced: Size, rows: Span, columns: Span) -> Tensor:
    """Return what `covered` says of a picture of `size`, float64 [..., H, W], of which `reduce_part` makes `values`.

    values: [..., h, w], a part of the picture reduced to the size `reduced`. Between them it is bilinear. Bilinear
    interpolation of the values themselves would lose up to half of their finest differences on each axis.
    """
    box = covered(size, reduced, rows, columns)
    enlarged = _enlarge_columns(values.double(), size[1], reduced[1], columns, (box.left, box.right))
    return _enlarge_columns(enlarged.mT, size[0], reduced[0], rows, (box.top, box.bottom)).mT


def _enlarge_columns(values: Tensor, old: int, new: int, span: Span, box: Span) -> Tensor:
    """Return values [..., span] at the pixels of `box`, of `old` pixels that are reduced to `new`."""
    pixels, cells = torch.arange(*box, dtype=torch.float64), torch.arange(*span, dtype=torch.float64)
    # Of the pixels, [pixels, cells]: the shares of the cells in their bilinear values, beyond the last ones these.
    where = ((pixels + 0.5) * new / old - 0.5).clamp(span[0], span[1] - 1)
    interpolation = (1 - (where[:, None] - cells).abs()).clamp(min=0)
    # Of the cells, [cells, pixels]: the shares of the pixels in their means.
    low, high = cells[:, None] * old / new, (cells[:, None] + 1) * old / new
    means = (torch.minimum(high, pixels + 1) - torch.maximum(low, pixels)).clamp(min=0) * new / old
    nodes = torch.linalg.solve(means @ interpolation, values.mT)
    return (interpolation @ nodes).mT


def _cover_sums(part: Tensor, box: Box, size: Size, reduced: Size, rows: Span, columns: Span) -> Tensor:
    part = part.double() if part.is_floating_point() else part.long()
    part = _sums(part.transpose(-2, -1), rows, size[0], reduced[0], box.top).transpose(-2, -1)
    return _sums(part, columns, size[1], reduced[1], box.left)


def reduce_image(image: Tensor, reduced: Size, rows: Span, columns: Span) -> Tensor:
    """Return a part of an image [C, H, W] averaged down to the size `reduced`: uint8 rounded, else float64."""
    sums = cover_sums(image, reduced, rows, columns)
    whole = image.shape[-2] * image.shape[-1]
    if image.is_floating_point():
        return sums / whole
    return ((2 * sums + whole) // (2 * whole)).to(image.dtype)


def reduce_label(label: Tensor, reduced: Size, rows: Span, columns: Span, *, background: int, null_id: int) -> Tensor:
    """Return a part of class ids [H, W] reduced by the area rule, of the same type.

    A pixel takes the class, other than the background, that covers most of it, if that is at least `LEAST_COVER`; of
    equal covers that of the class with fewer pixels in `label`. Otherwise it takes what covers most of it.
    """
    size = (label.shape[0], label.shape[1])
    part = label[covered(size, reduced, rows, columns).slices]
    return _reduce_label(part, label, size, reduced, rows, columns, (background, null_id))


def reduce_label_part(
    part: Tensor, size: Size, reduced: Size, rows: Span, columns: Span, *, background: int, null_id: int
) -> Tensor:
    """Return the same as `reduce_label` from what `covered` says of a map of `size`, [h, w], which decides between
    equal covers."""
    return _reduce_label(part, part, size, reduced, rows, columns, (background, null_id))


def _reduce_label(
    part: Tensor, whole: Tensor, size: Size, reduced: Size, rows: Span, columns: Span, ordinary: tuple[int, int]
) -> Tensor:
    present = torch.unique(part).tolist()
    if len(present) == 1:
        return part.new_full((rows[1] - rows[0], columns[1] - columns[0]), present[0])
    # The rarest first: the first of equal covers is chosen. A class and the background are never compared.
    if len(present) > 2 or len(set(present).intersection(ordinary)) != 1:
        present.sort(key=lambda class_id: (int((whole == class_id).sum()), class_id))
    box = covered(size, reduced, rows, columns)
    cover = np.stack([_cover_sums(part == class_id, box, size, reduced, rows, columns).numpy() for class_id in present])
    return torch.from_numpy(_decide(cover, np.array(present), size, ordinary)).to(part.dtype)


@dataclass(frozen=True)
class AreaReduction:
    """Label maps of images reduced to the size of their latents: `factor` pixels become one by the area rule.

    It can be pickled, for data loading processes. A reduced pixel that covers an edge is one.
    """

    factor: int
    background: int

    def __call__(self, condition: SemanticMap) -> SemanticMap:
        """Return the reduced maps, on the device of `condition`, whose sides are multiples of the factor."""
        height, width = condition.size
        reduced = (height // self.factor, width // self.factor)
        span = {"background": self.background, "null_id": condition.num_classes}
        labels = [
            reduce_label(each, reduced, (0, reduced[0]), (0, reduced[1]), **span) for each in condition.label.cpu()
        ]
        label = torch.stack(labels) if labels else condition.label.new_zeros(0, *reduced)
        edge = None if condition.edge is None else F.max_pool2d(condition.edge.float(), self.factor).bool()
        return replace(condition, label=label.to(condition.device), edge=edge)


def reduce_label_at(
    label: NDArray[np.integer],
    counts: NDArray[np.integer],
    reduced: Size,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    *,
    background: int,
    null_id: int,
) -> NDArray[np.int64]:
    """Return the classes that `reduce_label` gives to pixels (rows[i], columns[i]) of the reduced map, int64 [N].

    counts: the pixels of each class in `label`, int [K].
    """
    size = (label.shape[0], label.shape[1])
    (down, of_rows), (across, of_columns) = (
        _shares(pixels, old, new) for pixels, old, new in zip((rows, columns), size, reduced, strict=True)
    )
    blocks = label[down[:, :, None], across[:, None, :]]
    weights = of_rows[:, :, None] * of_columns[:, None, :]
    present = np.unique(blocks[weights > 0])
    present = present[np.argsort(counts[present], kind="stable")]
    cover = np.stack([np.where(blocks == class_id, weights, 0).sum(axis=(1, 2)) for class_id in present])
    return _decide(cover, present.astype(np.int64), size, (background, null_id))


def _shares(pixels: NDArray[np.int64], old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, [N, L], the original rows (columns) that each reduced one covers and how much of these, in 1/new."""
    first = pixels * old // new
    originals = first[:, None] + np.arange(-(-old // new) + 1)
    low = np.maximum(originals * new, pixels[:, None] * old)
    high = np.minimum((originals + 1) * new, (pixels[:, None] + 1) * old)
    return np.minimum(originals, old - 1), np.maximum(high - low, 0)


def _decide(
    cover: NDArray[np.integer], ids: NDArray[np.integer], size: Size, ordinary: tuple[int, int]
) -> NDArray[np.integer]:
    """Return the class that each pixel takes; `cover` [K, ...] is that of `ids`, the rarest of equal ones first."""
    foreground = ~np.isin(ids, ordinary)
    most = np.where(foreground.reshape(-1, *(1,) * (cover.ndim - 1)), cover, -1)
    numerator, denominator = LEAST_COVER
    enough = denominator * most.max(axis=0) >= numerator * size[0] * size[1]
    return ids[np.where(enough, most.argmax(axis=0), cover.argmax(axis=0))]


def _sums(values: Tensor, span: Span, old: int, new: int, first: int) -> Tensor:
    """Return the sums over reduced columns in units of 1/new; `values` [..., n] begin at the original's `first`."""
    zero = values.new_zeros(*values.shape[:-1], 1)
    ends = torch.arange(span[0], span[1] + 1) * old
    whole, rest = ends.div(new, rounding_mode="floor") - first, ends % new
    until = torch.cat([zero, values], dim=-1).cumsum(-1)[..., whole] * new
    partial = torch.cat([values, zero], dim=-1)[..., whole] * rest
    return (until + partial).diff(dim=-1)
