"""Group normalisation, modulation and activation as one operation with tables of scales and shifts.

A modulated normalisation gives pixel p of channel c the value `x_hat[p, c] * scale[row[p], c] + shift[row[p], c]`. Here
`scale` and `shift` are tables of few rows: one row an image where nothing but the timestep modulates, one row for each
(image, neighbourhood) where a semantic map does. The operation reads the tables as it goes; neither forward nor
backward pass keeps anything of image size but its input.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5
CHUNK = 256
"""Pixels summed at a time: large rows (background) are cut, so that all cores and blocks have work."""
CACHE = 2**21
"""Bytes of features that a CPU works on at a time; a common size of second-level caches, and measured to do best."""


class Sums(NamedTuple):
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
    def by(row: Tensor, count: int) -> Sums:
        """Return how to sum over pixels whose rows are `row`, int64 in 0..count-1 of any shape, which `order` gets."""
        sizes = torch.bincount(row.flatten(), minlength=count)
        chunks = (sizes + CHUNK - 1) // CHUNK
        first_pixel, first_chunk = sizes.cumsum(0) - sizes, chunks.cumsum(0) - chunks
        owner = torch.repeat_interleave(torch.arange(count, device=row.device), chunks)
        within = torch.arange(len(owner), device=row.device) - first_chunk[owner]
        order = row.flatten().argsort(stable=True).view(row.shape)
        return Sums(order, first_pixel[owner] + within * CHUNK, first_chunk)


@dataclass(frozen=True, eq=False)
class Rows:
    """Which table row each pixel of a batch reads.

    row: [N, H * W] int64 in 0..M-1.
    image: [M] int64, the image whose pixels read a row; a row belongs to one image.
    sums: what a backward pass needs; None where there will be none.
    """

    row: Tensor
    image: Tensor
    sums: Sums | None

    @staticmethod
    def of(row: Tensor, image: Tensor) -> Rows:
        """Return the rows of `row` [N, H * W] and `image` [M], with `sums` where gradients are enabled."""
        return Rows(row, image, Sums.by(row, len(image)) if torch.is_grad_enabled() else None)


@lru_cache(maxsize=64)
def image_rows(images: int, pixels: int, device: torch.device) -> Rows:
    """Return the rows of a batch of `images` with `pixels` each where one row an image is all."""
    with torch.inference_mode(False), torch.enable_grad():  # whatever mode the first caller is in
        image = torch.arange(images, device=device)
        return Rows.of(image[:, None].repeat(1, pixels), image)


def normalise(x: Tensor, *, groups: int, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Return x [N, C, ...] normalised by groups (Wu & He 2018), in its type; the statistics are float32 or wider."""
    return F.group_norm(_wide(x), groups, weight, bias, EPSILON).to(x.dtype)


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, rows: Rows, *, groups: int) -> Tensor:
    """Return SiLU(normalise(x) * scale + shift), normalised by groups.

    Statistics and arithmetic are float32 (or wider), the result has the type of `x`.

    x: [N, C, H, W]; a channels_last tensor is read as it lies. scale, shift: [M, C], read by `rows`.
    """
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
        row: Tensor,
        image: Tensor,
        order: Tensor | None,
        start: Tensor | None,
        first: Tensor | None,
        groups: int,
    ) -> Tensor:
        output, rstd = _normalise(x, groups)
        modulate_by_rows_(output, scale, shift, row)
        ctx.save_for_backward(x, scale, shift, rstd, row, image, order, start, first)
        ctx.groups = groups
        return as_features(output, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift, rstd, row, image, *sums = ctx.saved_tensors
        normalised, _ = _normalise(x, ctx.groups)
        outer = _pixels(grad).to(normalised.dtype)
        grad = torch.empty_like(outer)  # of the input of SiLU
        for part in _parts(grad):
            scales, shifts = (table.index_select(0, row[part].flatten()) for table in (scale, shift))
            before = shifts.addcmul_(normalised[part].flatten(0, 1), scales)
            torch.ops.aten.silu_backward.grad_input(
                outer[part].flatten(0, 1), before, grad_input=grad[part].flatten(0, 1)
            )
        row_sums = Sums(*sums)
        grad_shift, grad_scale = (row_sums(values.flatten(0, 1)) for values in (grad, grad * normalised))
        # With g = dL/d(x_hat) = grad * scale: dL/dx = rstd * (g - mean(g) - x_hat * mean(g * x_hat)), the means over
        # the image's group. They follow from the row sums, as scale is constant in a row.
        images, pixels, channels = grad.shape
        by_row = torch.stack([scale * grad_shift, scale * grad_scale])
        by_image = by_row.new_zeros(2, images, channels).index_add_(1, image, by_row)
        means = by_image.view(2, images, ctx.groups, -1).sum(-1) / (channels // ctx.groups * pixels)
        by_group = torch.stack([-means[0] * rstd, -means[1] * rstd, rstd])
        mean, slope, factor = by_group.repeat_interleave(channels // ctx.groups, dim=2)[:, :, None]
        factor = scale * factor[:, 0].index_select(0, image)
        grad_x = normalised
        for part in _parts(grad_x):
            block = grad_x[part].mul_(slope[part[0]]).add_(mean[part[0]])
            block.flatten(0, 1).addcmul_(grad[part].flatten(0, 1), factor.index_select(0, row[part].flatten()))
        return as_features(grad_x, x), grad_scale, grad_shift, *(None,) * 6


def normalised_pixels(x: Tensor, *, groups: int) -> Tensor:
    """Return x [N, C, H, W] normalised by groups, as new pixels [N, H * W, C] of float32 or wider."""
    return _normalise(x, groups)[0]


def modulate_by_rows_(pixels: Tensor, scale: Tensor, shift: Tensor, row: Tensor) -> None:
    """Change `pixels` [N, H * W, C] to SiLU(pixels * scale + shift), of tables [M, C] read by `row` [N, H * W]."""
    for part in _parts(pixels):
        block, rows = pixels[part].flatten(0, 1), row[part].flatten()
        block.mul_(scale.index_select(0, rows)).add_(shift.index_select(0, rows))
        F.silu(block, inplace=True)


def modulate_by_sums_(
    pixels: Tensor, factor: Tensor, offset: Tensor, chosen: Tensor, scale: Tensor | None, shift: Tensor | None
) -> None:
    """Change `pixels` [N, H * W, C] to SiLU((pixels * factor + offset) * (1 + scale) + shift).

    factor, offset: tables [P, C], read by `chosen` [N, H * W, 9], whose rows are summed. scale, shift: [N, C] or None.
    """
    for part in _parts(pixels):
        block, rows = pixels[part].flatten(0, 1), chosen[part].flatten(0, 1)
        block.mul_(F.embedding_bag(rows, factor, mode="sum")).add_(F.embedding_bag(rows, offset, mode="sum"))
        if scale is not None:
            block.unflatten(0, pixels[part].shape[:2]).mul_(1 + scale[part[0], None]).add_(shift[part[0], None])
        F.silu(block, inplace=True)


def by_pixel(x: Tensor) -> Tensor:
    """Return [N, C, H, W] as [N, H * W, C]."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def as_features(pixels: Tensor, x: Tensor) -> Tensor:
    """Return pixels [N, H * W, C] in the shape and type of x [N, C, H, W], channels last."""
    n, channels, height, width = x.shape
    return pixels.to(x.dtype).view(n, height, width, channels).permute(0, 3, 1, 2)


def _parts(pixels: Tensor) -> list[tuple[slice, slice]]:
    """Cut [N, H * W, C] into images and pixels, so that what several operations do to a part stays in a CPU's cache.

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


def _normalise(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return x_hat as pixels [N, H * W, C] and 1 / standard deviation [N, groups]; float32 for half types."""
    n, channels, height, width = x.shape
    wide = _wide(x)
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        normalised, _, rstd = torch.native_group_norm(wide, None, None, n, channels, height * width, groups, EPSILON)
        return _pixels(normalised), rstd
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
