"""Reduction by area: a pixel of the smaller picture is the mean of what it covers, and takes a class by its cover.

All sums are exact: a pixel of the reduced picture covers `old / new` pixels, which in units of 1/new is a whole number.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from guided_diffusion.conditions.base import Size

Span = tuple[int, int]
"""First row (column) of the reduced picture, and the first after the last."""

LEAST_COVER = (7, 20)
"""0.35: a class other than the background takes a pixel of which it covers at least this share, so that a defect
thinner than the reduced pixel survives."""


def cover_sums(values: Tensor, reduced: Size, rows: Span, columns: Span) -> Tensor:
    """Return the sums of [..., H, W] over the pixels of a picture reduced to the size `reduced`, of a part of these.

    int64 for integers and booleans, else float64, [..., rows, columns]; a pixel of ones alone has the sum H * W.
    """
    values = values.double() if values.is_floating_point() else values.long()
    (top, bottom), (left, right) = (
        _covered(span, old, new) for span, old, new in zip((rows, columns), values.shape[-2:], reduced, strict=True)
    )
    height, width = values.shape[-2:]
    part = values[..., top:bottom, left:right]
    part = _sums(part.transpose(-2, -1), rows, height, reduced[0], top).transpose(-2, -1)
    return _sums(part, columns, width, reduced[1], left)


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
    height, width = label.shape
    (top, bottom), (left, right) = (_covered(rows, height, reduced[0]), _covered(columns, width, reduced[1]))
    present = torch.unique(label[top:bottom, left:right]).tolist()
    if len(present) == 1:
        return label.new_full((rows[1] - rows[0], columns[1] - columns[0]), present[0])
    if len(present) > 2:  # the rarest first: the first of equal covers is chosen
        present.sort(key=lambda class_id: (int((label == class_id).sum()), class_id))
    cover = np.stack([cover_sums(label == class_id, reduced, rows, columns).numpy() for class_id in present])
    ids = np.array(present)
    ordinary = np.isin(ids, (background, null_id))
    most = np.where(ordinary[:, None, None], -1, cover)
    numerator, denominator = LEAST_COVER
    chosen = most.argmax(axis=0)
    enough = denominator * most.max(axis=0) >= numerator * height * width
    return torch.from_numpy(ids[np.where(enough, chosen, cover.argmax(axis=0))]).to(label.dtype)


def _covered(span: Span, old: int, new: int) -> Span:
    """Return the rows of the original that the rows `span` of the reduced picture cover, wholly or in part."""
    return span[0] * old // new, -(-span[1] * old // new)


def _sums(values: Tensor, span: Span, old: int, new: int, first: int) -> Tensor:
    """Return the sums over reduced columns in units of 1/new; `values` [..., n] begin at the original's `first`."""
    zero = values.new_zeros(*values.shape[:-1], 1)
    ends = torch.arange(span[0], span[1] + 1) * old
    whole, rest = ends.div(new, rounding_mode="floor") - first, ends % new
    until = torch.cat([zero, values], dim=-1).cumsum(-1)[..., whole] * new
    partial = torch.cat([values, zero], dim=-1)[..., whole] * rest
    return (until + partial).diff(dim=-1)
