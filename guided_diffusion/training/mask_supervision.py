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
SMALL = 1e-6


class TrueMasks(NamedTuple):
    """The true masks of the objects of layouts on a grid of rows and columns.

    mask: [N, O, R, C] float32, the share of the object's class in each cell. weight: [N, O, R, C], how much of a cell
    is in the box, in the image, and has a class.
    """

    mask: Tensor
    weight: Tensor


@dataclass(frozen=True)
class MaskSupervision:
    """The loss of the masks of objects where images have true ones: binary cross entropy and Dice (Milletari et al.
    2016), of the regressed masks and of those that the last block draws with.

    weight: of this loss beside that of the images. drawn: false where the two masks are the same.
    """

    weight: float
    drawn: bool = True

    def __call__(
        self, logits: Tensor, drawn: Tensor, condition: LayoutCondition, label: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the unweighted loss of each image [N], the mean over its objects, and 1 for each that has any [N].

        logits: [N, O, K, K], in the boxes. drawn: [N, O, H, W]. label: [N, H, W] in `0..num_classes` (no class).
        """
        counted, loss = counted_objects(condition, label), regressed_losses(logits.float(), condition, label)
        if self.drawn:
            loss = loss + drawn_losses(drawn.float(), condition, label)
        loss, objects = torch.where(counted, loss, 0), counted.sum(1)
        return loss.sum(1) / objects.clamp(min=1), (objects > 0).float()


def counted_objects(condition: LayoutCondition, label: Tensor) -> Tensor:
    """Return which objects are learned from label maps [N, H, W], [N, O] booleans.

    Not empty slots, the background, objects smaller than a pixel or of which the map shows nothing, and those that are
    mostly ignored or out of the image.
    """
    height, width = label.shape[1:]
    x0, y0, x1, y1 = condition.box.unbind(-1)
    counted = condition.present & ((x1 - x0) * width >= 1) & ((y1 - y0) * height >= 1)
    whole = masks_in_boxes(condition, label, 1)
    counted &= (whole.mask > 0).flatten(2).any(2) & (whole.weight >= LEAST_SEEN).flatten(2).any(2)
    if condition.background:
        counted[:, 0] = False
    return counted


def masks_in_boxes(condition: LayoutCondition, label: Tensor, cells: int) -> TrueMasks:
    """Return the true masks in `cells` x `cells` equal parts of each box, from label maps [N, H, W]."""
    own, has_class, (rows, columns) = *_shown(condition, label), _box_shares(condition, label, cells)
    covered, weight = (rows @ shown @ columns.transpose(2, 3) for shown in (own, has_class))
    return TrueMasks((covered / weight.clamp(min=SMALL)).clamp(max=1), weight)


def masks_in_pixels(condition: LayoutCondition, label: Tensor) -> TrueMasks:
    """Return the true masks in the pixels of label maps [N, H, W], weighted by how much of them is in the box."""
    own, has_class, (rows, columns) = *_shown(condition, label), _box_shares(condition, label, 1)
    width, height = ((condition.box[..., 2:] - condition.box[..., :2]) * rows.new_tensor(label.shape[:0:-1])).unbind(-1)
    inside = (rows * height[..., None, None]).transpose(2, 3) * (columns * width[..., None, None])
    return TrueMasks(own, inside * has_class)


def _shown(condition: LayoutCondition, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels of the class of each object [N, O, H, W], and those of any class [N, 1, H, W], as floats."""
    label = label.to(condition.label.dtype)[:, None]
    own, has_class = label == condition.label[..., None, None], label != condition.num_classes
    return own.float(), has_class.float()


def _box_shares(condition: LayoutCondition, label: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Return `cell_shares` of rows and columns."""
    (height, width), (x0, y0, x1, y1) = label.shape[1:], condition.box.float().unbind(-1)
    return cell_shares(y0 * height, y1 * height, cells, height), cell_shares(x0 * width, x1 * width, cells, width)


def cell_shares(low: Tensor, high: Tensor, cells: int, pixels: int) -> Tensor:
    """Return how much of each cell of a box is in each pixel along one axis, [..., cells, pixels].

    low, high: [...], the ends of boxes in pixels. The shares of a cell add up to 1 inside of the image.
    """
    edges = torch.arange(cells + 1, device=low.device, dtype=low.dtype) / cells
    edges = low[..., None] + (high - low)[..., None] * edges
    position = torch.arange(pixels, device=low.device, dtype=low.dtype)
    within = (edges[..., None] - position).clamp(0, 1)  # how much of a pixel is before an edge
    length = (edges[..., 1:] - edges[..., :-1]).clamp(min=SMALL)
    return (within[..., 1:, :] - within[..., :-1, :]) / length[..., None]


def regressed_losses(logits: Tensor, condition: LayoutCondition, label: Tensor) -> Tensor:
    """Return the loss of masks in boxes from their logits [N, O, K, K], [N, O]."""
    true = masks_in_boxes(condition, label, logits.shape[-1])
    entropy = F.binary_cross_entropy_with_logits(logits, true.mask, reduction="none")
    return _weighted(entropy, logits.sigmoid(), true)


def drawn_losses(drawn: Tensor, condition: LayoutCondition, label: Tensor) -> Tensor:
    """Return the loss of masks [N, O, H, W] in 0..1, which are 0 outside of their boxes, [N, O]."""
    true = masks_in_pixels(condition, label)
    # At the border of its box a mask is as much less as the pixel is outside.
    probability = (drawn / true.weight.clamp(min=SMALL)).clamp(0, 1)
    chance = torch.where(true.mask > 0, probability, 1 - probability).clamp(min=SMALL)
    return _weighted(-chance.log(), probability, true)


def _weighted(entropy: Tensor, probability: Tensor, true: TrueMasks) -> Tensor:
    """Return the mean entropy plus 1 - Dice; with squares in the Dice, which are 1 for equal soft masks."""
    mean = (true.weight * entropy).sum((2, 3)) / true.weight.sum((2, 3)).clamp(min=SMALL)
    squares = (true.weight * (probability**2 + true.mask**2)).sum((2, 3))
    return mean + 1 - 2 * (true.weight * probability * true.mask).sum((2, 3)) / squares.clamp(min=SMALL)
