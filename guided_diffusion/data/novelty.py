"""How far generated masks are from the training masks: cheap enough for every preview."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ELEMENTS = 2**24  # of one product's operands


def novelty(
    labels: Tensor, training: Tensor, background: int, *, flips: Sequence[int] = (), leave_one_out: bool = False
) -> Tensor:
    """Return 1 - IoU to the nearest training mask of each of N label maps, [N] float32 in [0, 1].

    labels, training: integers [N, H, W] and [M, H, W]. IoU: pixels of one class in both over pixels that are not
    background in both or one; 1 for two empty masks. flips: dimensions (1: upside down, 2: left-right) along which
    masks may also be flipped. leave_one_out: `labels` are `training`, each compared with the others.
    """
    views = [labels]
    for dimension in flips:
        views += [view.flip(dimension) for view in views]
    nearest = torch.zeros(len(labels))
    step = max(1, _ELEMENTS // training[:1].numel())
    for start in range(0, len(training), step):
        part = training[start : start + step]
        for view in views:
            overlap = _overlap(view, part, background)
            if leave_one_out:
                own = torch.arange(start, start + len(part))
                overlap[own, own - start] = 0
            nearest = torch.maximum(nearest, overlap.amax(1))
    return 1 - nearest


def _overlap(first: Tensor, second: Tensor, background: int) -> Tensor:
    """Return the IoU of each of `first` [N, H, W] with each of `second` [M, H, W], [N, M] float32."""
    first, second = first.flatten(1).long(), second.flatten(1).long()
    agreeing = torch.zeros(len(first), len(second))
    for class_id in torch.unique(first).tolist():
        if class_id != background:
            agreeing += (first == class_id).float() @ (second == class_id).float().T
    shown = [(each != background).float() for each in (first, second)]
    both = shown[0] @ shown[1].T
    union = shown[0].sum(1)[:, None] + shown[1].sum(1) - both
    return torch.where(union > 0, agreeing / union.clamp(min=1), 1.0)
