"""Sums of table rows, which SPADE's modulations look up and add."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.models.group_norm import SegmentSum, cached_parts


class BagSum:
    """Sums of nine rows of a table of products.

    bags: [K, 9] int64 in 0..count-1, the rows of each sum. count: rows of the table.
    """

    def __init__(self, bags: Tensor, count: int):
        self.bags = bags
        self.count = count

    def __call__(self, products: Tensor) -> Tensor:
        """Return the sums [K, C] of `products` [count, C]."""
        if torch.is_grad_enabled():
            return _BagSum.apply(products, self.bags, *self.backward_index)
        return F.embedding_bag(self.bags, products, mode="sum")

    @cached_property
    def backward_index(self) -> SegmentSum:
        """Index to sum, for each product, the gradients of the sums that contain it."""
        by_product = SegmentSum.by(self.bags.flatten(), self.count)
        return by_product._replace(order=by_product.order // self.bags.shape[1])


class _BagSum(torch.autograd.Function):
    """`embedding_bag` whose backward pass sums over the bags of each row by a precomputed index."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, bags: Tensor, *backward_index: Tensor) -> Tensor:
        ctx.save_for_backward(*backward_index)
        return F.embedding_bag(bags, rows, mode="sum")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return SegmentSum(*ctx.saved_tensors)(grad.contiguous()), None, None, None, None


def modulate_by_bags_(
    pixels: Tensor, scale: Tensor, shift: Tensor, bags: Tensor, time_scale: Tensor | None, time_shift: Tensor | None
) -> None:
    """Change `pixels` [N, H * W, C] to SiLU((pixels * scale + shift) * (1 + time_scale) + time_shift).

    scale, shift: tables [P, C], of which each pixel sums the nine rows `bags` [N, H * W, 9].
    """
    for part in cached_parts(pixels):
        block, rows = pixels[part].flatten(0, 1), bags[part].flatten(0, 1)
        block.mul_(F.embedding_bag(rows, scale, mode="sum")).add_(F.embedding_bag(rows, shift, mode="sum"))
        if time_scale is not None:
            by_image = block.unflatten(0, pixels[part].shape[:2])
            by_image.mul_(1 + time_scale[part[0], None]).add_(time_shift[part[0], None])
        F.silu(block, inplace=True)
