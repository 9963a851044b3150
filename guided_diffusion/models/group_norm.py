"""Group normalization, modulation and activation as one operation with tables of scales and shifts.

Pixel p of channel c becomes SiLU(x_hat[p, c] * scale[row[p], c] + shift[row[p], c]). The tables have few rows: one an
image where the timestep alone modulates, one for each (image, patch) where a semantic map does. They are read as the
operation goes, and neither forward nor backward pass keeps anything of image size but its input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5
CHUNK = 256
"""Pixels summed at a time: large rows (background) are cut, so that all cores and blocks have work."""
CACHE = 2**21
"""Bytes of features that a CPU works on at a time; a common size of second-level caches, and measured to do best."""


class SegmentSum(NamedTuple):
    """How to sum over the pixels of each row: chunk by chunk, then over the chunks of a row.

    order: int64, all pixels in the order of their rows. start: of each chunk in `order`. first: chunk of each row.
    """

    order: Tensor
    start: Tensor
    first: Tensor

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return [M, C]: the sums of `pixels` [P, C] by row. The order of summation is fixed."""
        chunks = F.embedding_bag(self.order.flatten(), pixels, self.start, mode="sum")
        return F.embedding_bag(torch.arange(len(self.start), device=pixels.device), chunks, self.first, mode="sum")

    @staticmethod
    def by(row: Tensor, count: int) -> SegmentSum:
        """Return how to sum over pixels whose rows are `row`, int64 in 0..count-1 of any shape, which `order` gets."""
        sizes = torch.bincount(row.flatten(), minlength=count)
        chunks = (sizes + CHUNK - 1) // CHUNK
        first_pixel, first_chunk = sizes.cumsum(0) - sizes, chunks.cumsum(0) - chunks
        owner = torch.repeat_interleave(torch.arange(count, device=row.device), chunks)
        within = torch.arange(len(owner), device=row.device) - first_chunk[owner]
        order = row.flatten().argsort(stable=True).view(row.shape)
        return SegmentSum(order, first_pixel[owner] + within * CHUNK, first_chunk)

    @staticmethod
    def by_image(images: int, pixels: int, device: torch.device) -> SegmentSum:
        """Return how to sum over the pixels of each image: what `by` returns for one row an image, without sorting."""
        image = torch.arange(images, device=device)[:, None]
        start = image * pixels + torch.arange(0, pixels, CHUNK, device=device)
        first = image.flatten() * start.shape[1]
        return SegmentSum(torch.arange(images * pixels, device=device), start.flatten(), first)


@dataclass(frozen=True, eq=False)
class RowIndex:
    """Which table row each pixel of a batch reads.

    row: [N, H * W] int64 in 0..M-1.
    image: [M] int64, the image whose pixels read a row; a row belongs to one image.
    sums: what a backward pass needs; None where there will be none.
    """

    row: Tensor
    image: Tensor
    sums: SegmentSum | None

    @staticmethod
    def of(row: Tensor, image: Tensor) -> RowIndex:
        """Return the index of `row` [N, H * W] and `image` [M], with `sums` where gradients are enabled."""
        return RowIndex(row, image, SegmentSum.by(row, len(image)) if torch.is_grad_enabled() else None)


def normalize(x: Tensor, *, groups: int, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Return x [N, C, ...] normalized by groups (Wu & He 2018), in its type; the statistics are float32 or wider."""
    return F.group_norm(_wide(x), groups, weight, bias, EPSILON).to(x.dtype)


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, rows: RowIndex | None, *, groups: int) -> Tensor:
    """Return SiLU(normalize(x) * scale + shift) for x [N, C, H, W] in its type; the arithmetic is float32 or wider.

    A channels_last tensor is read as it lies. scale, shift: [M, C], read by `rows`; None for one row an image (M = N).
    """
    if rows is None:
        return _ModulatedNorm.apply(x, scale, shift, *[None] * 5, groups)
    sums = (None, None, None) if rows.sums is None else rows.sums
    return _ModulatedNorm.apply(x, scale, shift, rows.row, rows.image, *sums, groups)


class _ModulatedNorm(torch.autograd.Function):
    """The operation of `modulated_norm`; the backward pass computes again what the forward pass has not kept."""

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
        groups: int,
    ) -> Tensor:
        output, rstd = _normalize(x, groups)
        modulate_by_rows_(output, scale, shift, row)
        ctx.save_for_backward(x, scale, shift, rstd, row, image, order, start, first)
        ctx.groups = groups
        return as_features(output, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, rstd, row, image, *sums = ctx.saved_tensors
        normalized, _ = _normalize(x, ctx.groups)
        images, pixels, channels = normalized.shape
        outer = _pixels(grad).to(normalized.dtype)
        grad = torch.empty_like(outer)  # of the input of SiLU
        for part in cached_parts(grad):
            before = _shifted(normalized[part], scale, shift, row, part)
            torch.ops.aten.silu_backward.grad_input(outer[part], before, grad_input=grad[part])
        row_sums = SegmentSum.by_image(images, pixels, x.device) if row is None else SegmentSum(*sums)
        grad_shift, grad_scale = (row_sums(values.flatten(0, 1)) for values in (grad, grad * normalized))
        # With g = dL/d(x_hat) = grad * scale: dL/dx = rstd * (g - mean(g) - x_hat * mean(g * x_hat)), the means over
        # the image's group. They follow from the row sums, as scale is constant in a row.
        by_row = torch.stack([scale * grad_shift, scale * grad_scale])
        by_image = by_row if row is None else by_row.new_zeros(2, images, channels).index_add_(1, image, by_row)
        means = by_image.view(2, images, ctx.groups, -1).sum(-1) / (channels // ctx.groups * pixels)
        by_group = torch.stack([-means[0] * rstd, -means[1] * rstd, rstd])
        mean, slope, factor = by_group.repeat_interleave(channels // ctx.groups, dim=2)
        factor = scale * (factor if row is None else factor.index_select(0, image))
        grad_x = normalized
        for part in cached_parts(grad_x):
            block = grad_x[part].mul_(slope[part[0], None]).add_(mean[part[0], None])
            block.addcmul_(grad[part], _read(factor, row, part))
        return as_features(grad_x, x), grad_scale, grad_shift, *(None,) * 6


def normalized_pixels(x: Tensor, *, groups: int) -> Tensor:
    """Return x [N, C, H, W] normalized by groups, as new pixels [N, H * W, C] of float32 or wider."""
    return _normalize(x, groups)[0]


def modulate_by_rows_(pixels: Tensor, scale: Tensor, shift: Tensor, row: Tensor | None) -> None:
    """Change `pixels` [N, H * W, C] to SiLU(pixels * scale + shift), of tables [M, C] read by `row` [N, H * W].

    row: None for one row an image.
    """
    for part in cached_parts(pixels):
        block = pixels[part]
        block.mul_(_read(scale, row, part)).add_(_read(shift, row, part))
        F.silu(block, inplace=True)


def by_pixel(x: Tensor) -> Tensor:
    """Return [N, C, H, W] as [N, H * W, C]."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def as_features(pixels: Tensor, x: Tensor) -> Tensor:
    """Return pixels [N, H * W, C] in the shape and type of x [N, C, H, W], channels last."""
    n, channels, height, width = x.shape
    return pixels.to(x.dtype).view(n, height, width, channels).permute(0, 3, 1, 2)


Part = tuple[slice, slice]
"""Images and pixels of a batch that are worked on at a time."""


def cached_parts(pixels: Tensor) -> list[Part]:
    """Cut [N, H * W, C] into parts, so that what several operations do to a part stays in a CPU's cache.

    A part is whole images, or lies in one. A GPU takes all at once.
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
    """Return what the pixels of `part` read of `table` [M, C]: [n, pixels, C], or [n, 1, C] for one row an image."""
    if row is None:
        return table[part[0], None]
    chosen = row[part]
    return table.index_select(0, chosen.flatten()).view(*chosen.shape, -1)


def _shifted(pixels: Tensor, scale: Tensor, shift: Tensor, row: Tensor | None, part: Part) -> Tensor:
    """Return `pixels` of `part` * scale + shift."""
    shifts, scales = _read(shift, row, part), _read(scale, row, part)
    # What was gathered is new memory, which can take the result.
    return torch.addcmul(shifts, pixels, scales) if row is None else shifts.addcmul_(pixels, scales)


def _normalize(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return x_hat as pixels [N, H * W, C] and 1 / standard deviation [N, groups]; float32 for half types."""
    n, channels, height, width = x.shape
    wide = _wide(x)
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        normalized, _, rstd = torch.native_group_norm(wide, None, None, n, channels, height * width, groups, EPSILON)
        return _pixels(normalized), rstd
    # Elsewhere PyTorch's own group norm wants contiguous memory, and a compiler joins what follows.
    grouped = _pixels(wide).unflatten(2, (groups, channels // groups))
    variance, mean = torch.var_mean(grouped, dim=(1, 3), correction=0, keepdim=True)
    rstd = (variance + EPSILON).rsqrt()
    return ((grouped - mean) * rstd).flatten(2), rstd.view(n, groups)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _pixels(x: Tensor) -> Tensor:
    """Return [N, C, H, W] as contiguous [N, H * W, C], without a copy where the channels lie last."""
    return by_pixel(x).contiguous()
