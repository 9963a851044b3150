"""Group normalization, modulation and activation as one operation with tables of scales and shifts.

Pixel p of channel c becomes SiLU(x_hat[p, c] * scale[row[p], c] + shift[row[p], c]). The tables have few rows: one for
each image if only the timestep modulates, one for each (image, patch) if a semantic map does. Of image size, the
backward pass keeps only the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.models.architecture import GROUPS

EPSILON = 1e-5
CHUNK = 256
"""Pixels summed at a time: large rows (background) are cut, so that all cores or GPU blocks have work."""
CACHE = 2**21
"""Bytes of features that a CPU works on at a time: a common size of second-level caches, the fastest as measured."""


class SegmentSum(NamedTuple):
    """Index to sum over the pixels of each row: first in chunks, then over the chunks of a row.

    order: int64, all pixels sorted by row. start: where each chunk starts in `order`. first: first chunk of each row.
    """

    order: Tensor
    start: Tensor
    first: Tensor

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the sums [M, C] of `pixels` [P, C] by row, in a fixed order of summation."""
        chunks = F.embedding_bag(self.order.flatten(), pixels, self.start, mode="sum")
        return F.embedding_bag(torch.arange(len(self.start), device=pixels.device), chunks, self.first, mode="sum")

    @staticmethod
    def by(row: Tensor, count: int) -> SegmentSum:
        """Return the index for pixels whose rows are `row`, int64 in 0..count-1; `order` gets the shape of `row`."""
        sizes = torch.bincount(row.flatten(), minlength=count)
        chunks = (sizes + CHUNK - 1) // CHUNK
        first_pixel, first_chunk = sizes.cumsum(0) - sizes, chunks.cumsum(0) - chunks
        owner = torch.repeat_interleave(torch.arange(count, device=row.device), chunks)
        within = torch.arange(len(owner), device=row.device) - first_chunk[owner]
        order = row.flatten().argsort(stable=True).view(row.shape)
        return SegmentSum(order, first_pixel[owner] + within * CHUNK, first_chunk)

    @staticmethod
    def by_image(images: int, pixels: int, device: torch.device) -> SegmentSum:
        """Return what `by` returns for one row per image, without sorting."""
        image = torch.arange(images, device=device)[:, None]
        start = image * pixels + torch.arange(0, pixels, CHUNK, device=device)
        first = image.flatten() * start.shape[1]
        return SegmentSum(torch.arange(images * pixels, device=device), start.flatten(), first)


@dataclass(frozen=True, eq=False)
class RowIndex:
    """Which table row each pixel of a batch reads.

    row: [N, H * W] int64 in 0..M-1. image: [M] int64, the image that each row belongs to. sums: for the backward pass,
    None without gradients.
    """

    row: Tensor
    image: Tensor
    sums: SegmentSum | None

    @staticmethod
    def of(row: Tensor, image: Tensor) -> RowIndex:
        """Return the index of `row` [N, H * W] and `image` [M], with `sums` where gradients are enabled."""
        return RowIndex(row, image, SegmentSum.by(row, len(image)) if torch.is_grad_enabled() else None)


def normalize(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Return x [N, C, ...] after group normalization (Wu & He 2018), in its dtype; statistics are at least float32."""
    return F.group_norm(_wide(x), GROUPS, weight, bias, EPSILON).to(x.dtype)


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, rows: RowIndex | None) -> Tensor:
    """Return SiLU(normalize(x) * scale + shift) for x [N, C, H, W], best channels_last, in its dtype.

    scale, shift: [M, C], read by `rows`; None for one row per image (M = N). The arithmetic is at least float32.
    """
    if rows is None:
        return _ModulatedNorm.apply(x, scale, shift, *[None] * 5)
    return _ModulatedNorm.apply(x, scale, shift, rows.row, rows.image, *(rows.sums or [None] * 3))


class _ModulatedNorm(torch.autograd.Function):
    """The operation of `modulated_norm`; its backward pass recomputes the normalized features."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        row: Tensor | None,
        image: Tensor | None,
        order: Tensor | None,
        start: Tensor | None,
        first: Tensor | None,
    ) -> Tensor:
        output, rstd = normalized_pixels(x)
        modulate_by_rows_(output, scale, shift, row)
        ctx.save_for_backward(x, scale, shift, rstd, row, image, order, start, first)
        return as_features(output, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, rstd, row, image, *sums = ctx.saved_tensors
        normalized, _ = normalized_pixels(x)
        images, pixels, channels = normalized.shape
        outer = _pixels(grad).to(normalized.dtype)
        grad = torch.empty_like(outer)  # of the input of SiLU
        for part in cached_parts(grad):
            before = _shifted(normalized[part], scale, shift, row, part)
            torch.ops.aten.silu_backward.grad_input(outer[part], before, grad_input=grad[part])
        row_sums = SegmentSum.by_image(images, pixels, x.device) if row is None else SegmentSum(*sums)
        grad_shift, grad_scale = (row_sums(values.flatten(0, 1)) for values in (grad, grad * normalized))
        # As scale is constant in a row, the sums over the pixels of an image follow from the row sums.
        by_row = torch.stack([scale * grad_shift, scale * grad_scale])
        by_image = by_row if row is None else by_row.new_zeros(2, images, channels).index_add_(1, image, by_row)
        mean, slope, rstd = input_gradient_terms(by_image, rstd, pixels)
        factor = scale * (rstd if row is None else rstd.index_select(0, image))
        grad_x = normalized
        for part in cached_parts(grad_x):
            block = grad_x[part].mul_(slope[part[0], None]).add_(mean[part[0], None])
            block.addcmul_(grad[part], _read(factor, row, part))
        return as_features(grad_x, x), grad_scale, grad_shift, *(None,) * 5


def normalized_pixels(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return normalized x [N, C, H, W] as new pixels [N, H * W, C], and 1 / standard deviation [N, GROUPS].

    Both are float32 for half types.
    """
    n, channels, height, width = x.shape
    wide = _wide(x)
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        normalized, _, rstd = torch.native_group_norm(wide, None, None, n, channels, height * width, GROUPS, EPSILON)
        return _pixels(normalized), rstd
    # Elsewhere PyTorch's group norm needs contiguous memory; a compiler fuses these operations with the next ones.
    grouped = _pixels(wide).unflatten(2, (GROUPS, channels // GROUPS))
    variance, mean = torch.var_mean(grouped, dim=(1, 3), correction=0, keepdim=True)
    rstd = (variance + EPSILON).rsqrt()
    return ((grouped - mean) * rstd).flatten(2), rstd.view(n, GROUPS)


def input_gradient_terms(sums: Tensor, rstd: Tensor, pixels: int) -> Tensor:
    """Return a, b and c, [3, N, C], of dL/dx = a + b * x_hat + c * g, where x is the input and g = dL/d(x_hat).

    It is rstd * (g - mean(g) - x_hat * mean(g * x_hat)), with means over the group of the image. sums: [2, N, C], of g
    and g * x_hat over the `pixels` of an image. rstd: [N, GROUPS], from `normalized_pixels`.
    """
    _, images, channels = sums.shape
    means = sums.view(2, images, GROUPS, -1).sum(-1) / (channels // GROUPS * pixels)
    by_group = torch.stack([-means[0] * rstd, -means[1] * rstd, rstd])
    return by_group.repeat_interleave(channels // GROUPS, dim=2)


def modulate_by_rows_(pixels: Tensor, scale: Tensor, shift: Tensor, row: Tensor | None) -> None:
    """Change `pixels` [N, H * W, C] to SiLU(pixels * scale + shift).

    scale, shift: [M, C], read by `row` [N, H * W]; None for one row per image.
    """
    for part in cached_parts(pixels):
        block = pixels[part]
        block.mul_(_read(scale, row, part)).add_(_read(shift, row, part))
        F.silu(block, inplace=True)


def by_pixel(x: Tensor) -> Tensor:
    """Return [N, C, H, W] as [N, H * W, C]."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def as_features(pixels: Tensor, x: Tensor) -> Tensor:
    """Return pixels [N, H * W, C] in the shape and dtype of x [N, C, H, W], channels_last."""
    n, channels, height, width = x.shape
    return pixels.to(x.dtype).view(n, height, width, channels).permute(0, 3, 1, 2)


Part = tuple[slice, slice]
"""A range of images and a range of pixels."""


def cached_parts(pixels: Tensor) -> list[Part]:
    """Cut [N, H * W, C] into parts that stay in a CPU's cache over several operations; on a GPU one part is all.

    A part is several whole images or a range of one.
    """
    if pixels.device.type != "cpu" or torch.compiler.is_compiling():
        return [(slice(None), slice(None))]
    images, count, channels = pixels.shape
    room = max(CHUNK, CACHE // (channels * pixels.element_size()))
    if room >= count:
        step = room // count
        return [(slice(image, image + step), slice(None)) for image in range(0, images, step)]
    starts = range(0, count, room)
    return [(slice(image, image + 1), slice(start, start + room)) for image in range(images) for start in starts]


def _read(table: Tensor, row: Tensor | None, part: Part) -> Tensor:
    """Return the rows of `table` [M, C] for the pixels of `part`, [n, pixels, C]; [n, 1, C] for one row per image."""
    if row is None:
        return table[part[0], None]
    chosen = row[part]
    return table.index_select(0, chosen.flatten()).view(*chosen.shape, -1)


def _shifted(pixels: Tensor, scale: Tensor, shift: Tensor, row: Tensor | None, part: Part) -> Tensor:
    """Return `pixels` of `part` * scale + shift."""
    shifts, scales = _read(shift, row, part), _read(scale, row, part)
    # Gathered rows are new memory, which can hold the result.
    return torch.addcmul(shifts, pixels, scales) if row is None else shifts.addcmul_(pixels, scales)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _pixels(x: Tensor) -> Tensor:
    """Return [N, C, H, W] as contiguous [N, H * W, C], without a copy if it is channels_last."""
    return by_pixel(x).contiguous()
