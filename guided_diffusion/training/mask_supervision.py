"""What the masks of objects learn from true masks: those are cut out by the boxes, and compared cell by cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.conditions.layout import LayoutCondition

LEAST_SEEN = 0.5
"""An object counts if at least this share of its box is in the image and has a class."""


class TrueMasks(NamedTuple):
    """The true masks of the objects of layouts, in their boxes.

    mask: [N, O, K, K] float32, the share of the object's class in each of K x K cells of its box. seen: [N, O, K, K],
    how much of a cell is in the image and has a class. counted: [N, O] booleans, the objects that are learned.
    """

    mask: Tensor
    seen: Tensor
    counted: Tensor


@dataclass(frozen=True)
class MaskSupervision:
    """The loss of regressed masks where images have true ones: binary cross entropy and Dice (Milletari et al. 2016).

    weight: of this loss beside that of the images.
    """

    weight: float

    def __call__(self, logits: Tensor, condition: LayoutCondition, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return the unweighted loss of each image [N], the mean over its objects, and 1 for each that has any [N].

        logits: [N, O, K, K]. label: [N, H, W] in `0..num_classes`, which is no class.
        """
        logits = logits.float()
        true = true_masks(condition, label, logits.shape[-1])
        loss = torch.where(true.counted, object_losses(logits, true.mask, true.seen), 0)
        objects = true.counted.sum(1)
        return loss.sum(1) / objects.clamp(min=1), (objects > 0).float()


def true_masks(condition: LayoutCondition, label: Tensor, cells: int) -> TrueMasks:
    """Return what label maps [N, H, W] show of the objects, with K = `cells`.

    Not counted: empty slots, the background, objects smaller than a pixel or of which the map shows nothing, and those
    that are mostly ignored or out of the image.
    """
    height, width = label.shape[1:]
    x0, y0, x1, y1 = condition.box.float().unbind(-1)
    rows, columns = (
        cell_shares(y0 * height, y1 * height, cells, height),
        cell_shares(x0 * width, x1 * width, cells, width),
    )
    label = label.to(condition.label.dtype)[:, None]
    own = label == condition.label[..., None, None]
    has_class = (label != condition.num_classes).float()
    covered, seen = (rows @ shown.float() @ columns.transpose(2, 3) for shown in (own, has_class))
    counted = condition.present & ((x1 - x0) * width >= 1) & ((y1 - y0) * height >= 1)
    counted &= (covered.sum((2, 3)) > 0) & (seen.mean((2, 3)) >= LEAST_SEEN)
    if condition.background:
        counted[:, 0] = False
    return TrueMasks((covered / seen.clamp(min=1e-6)).clamp(max=1), seen, counted)


def cell_shares(low: Tensor, high: Tensor, cells: int, pixels: int) -> Tensor:
    """Return how much of each cell of a box is in each pixel along one axis, [..., cells, pixels].

    low, high: [...], the ends of boxes in pixels. The shares of a cell add up to 1 inside of the image.
    """
    edges = torch.arange(cells + 1, device=low.device, dtype=low.dtype) / cells
    edges = low[..., None] + (high - low)[..., None] * edges
    position = torch.arange(pixels, device=low.device, dtype=low.dtype)
    within = (edges[..., None] - position).clamp(0, 1)  # how much of a pixel is before an edge
    length = (edges[..., 1:] - edges[..., :-1]).clamp(min=1e-6)
    return (within[..., 1:, :] - within[..., :-1, :]) / length[..., None]


def object_losses(logits: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Return the binary cross entropy plus 1 - Dice of each mask, [N, O]; all arguments [N, O, K, K].

    mask: in 0..1. weight: how much each cell counts. Squares in the Dice, so that it is 1 for equal soft masks.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, mask, weight, reduction="none").sum((2, 3))
    entropy = entropy / weight.sum((2, 3)).clamp(min=1e-6)
    probability = logits.sigmoid()
    common, squares = ((weight * term).sum((2, 3)) for term in (probability * mask, probability**2 + mask**2))
    return entropy + 1 - 2 * common / squares.clamp(min=1e-6)
