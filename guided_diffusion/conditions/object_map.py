"""One label map from the masks of the objects of layouts."""

from __future__ import annotations

import torch
from torch import Tensor

from guided_diffusion.conditions.layout import LayoutCondition


def label_map_of(masks: Tensor, condition: LayoutCondition, background: int = 0) -> Tensor:
    """Return the class of each pixel, [N, H, W] int64, from masks [N, O, H, W] in 0..1 (STAY diffusion).

    It is that of the smallest object (area of its box; of equal ones the first) whose mask is at least 0.5;
    the background of a layout is behind all others. Where there is none, it is `background`. Empty slots do not count.
    """
    assert masks.shape[:2] == condition.label.shape, "there must be one mask for each slot"
    order = condition.front
    sizes = masks.shape[2:]
    covered = (masks >= 0.5) & condition.present[..., None, None]
    covered = covered.gather(1, order[..., None, None].expand(*order.shape, *sizes))
    label = condition.label.gather(1, order).to(torch.int64)
    first = covered.to(torch.uint8).argmax(dim=1)
    found = label.gather(1, first.flatten(1)).unflatten(1, sizes)
    return torch.where(covered.any(dim=1), found, background)
