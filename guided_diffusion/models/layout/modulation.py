"""ISLA's modulations: tables of scales and shifts of objects, mixed in each pixel by the weights of their masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.conditions.base import Size
from guided_diffusion.models.conditioning import Modulation
from guided_diffusion.models.group_norm import (
    Part,
    as_features,
    by_pixel,
    cached_parts,
    input_gradient_terms,
    modulate_by_rows_,
    modulated_norm,
    normalized_pixels,
)
from guided_diffusion.models.layout.masks import MaskHead, ObjectMasks, StageMasks


@dataclass(frozen=True, eq=False)
class LayoutModulation(Modulation):
    """Scale and shift of every pixel as the tables' row 0 plus the weighted sum of the others, one for each object.

    scale: [N, O + 1, C], row 0 is 1, then gamma. shift: [N, O + 1, C], row 0 is 0, then beta. weight: [N, H * W, O].
    masks: [N, O, H, W], what the weights are made of. objects: the masks of all levels.
    """

    scale: Tensor
    shift: Tensor
    weight: Tensor
    masks: Tensor
    objects: ObjectMasks

    def __len__(self) -> int:
        return self.scale.shape[0]

    def with_gradients(self, x: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return mixed_norm(x, *self._with_time(time_scale, time_shift), self.weight)

    def modulate_(self, pixels: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> None:
        with torch.autocast(pixels.device.type, enabled=False):
            modulate_by_objects_(pixels, *self._with_time(time_scale, time_shift), self.weight)

    def _with_time(self, time_scale: Tensor | None, time_shift: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the tables with the timestep included: it multiplies every row, and shifts the row 0."""
        if time_scale is None:
            return self.scale, self.shift
        times = (1 + time_scale.to(self.scale.dtype))[:, None]
        shift = self.shift * times
        return self.scale * times, torch.cat([shift[:, :1] + time_shift[:, None].to(shift.dtype), shift[:, 1:]], dim=1)

    def see(self, head: MaskHead, h: Tensor) -> StageMasks:
        return StageMasks(head(h, self.objects.label).sigmoid(), self.objects)

    def refined(self, seen: StageMasks, start: Size) -> LayoutModulation:
        masks, weight = seen.at((self.masks.shape[2], self.masks.shape[3]), start)
        return replace(self, masks=masks, weight=weight)

    def object_masks(self) -> Tensor:
        return self.masks[:, : self.objects.slots]

    def mask_logits(self) -> Tensor:
        return self.objects.logits[:, : self.objects.slots]

    def expand(self, n: int, shared: dict[Any, Any]) -> LayoutModulation:
        if self.objects not in shared:
            shared[self.objects] = self.objects.expand(n)
        own = (tensor.expand(n, *tensor.shape[1:]) for tensor in (self.scale, self.shift, self.weight, self.masks))
        return LayoutModulation(*own, shared[self.objects])

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.scale, self.shift, self.weight, self.masks, *self.objects.tensors())


@dataclass(frozen=True, eq=False)
class EmptyModulation(Modulation):
    """The modulation of layouts without any object, as null conditions are: scale 1 and shift 0, [N, C] each.

    slots: the empty ones of each layout. size: of the features.
    """

    scale: Tensor
    shift: Tensor
    slots: int
    size: Size

    def __len__(self) -> int:
        return self.scale.shape[0]

    def with_gradients(self, x: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> Tensor:
        return modulated_norm(x, *self._with_time(time_scale, time_shift), None)

    def modulate_(self, pixels: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> None:
        modulate_by_rows_(pixels, *self._with_time(time_scale, time_shift), None)

    def _with_time(self, time_scale: Tensor | None, time_shift: Tensor | None) -> tuple[Tensor, Tensor]:
        return (self.scale, self.shift) if time_scale is None else (self.scale * (1 + time_scale), time_shift)

    def object_masks(self) -> Tensor:
        return self.scale.new_zeros(len(self), self.slots, *self.size)

    def expand(self, n: int, shared: dict[Any, Any]) -> EmptyModulation:
        return replace(self, scale=self.scale.expand(n, -1), shift=self.shift.expand(n, -1))

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.scale, self.shift)


def modulate_by_objects_(pixels: Tensor, scale: Tensor, shift: Tensor, weight: Tensor) -> None:
    """Change `pixels` [N, H * W, C] to SiLU(pixels * mixed scale + mixed shift).

    scale, shift: [N, O + 1, C]: row 0, plus the others by `weight` [N, H * W, O].
    """
    for part in cached_parts(pixels):
        block = pixels[part]
        block.mul_(_mixed(scale, weight, part)).add_(_mixed(shift, weight, part))
        F.silu(block, inplace=True)


def mixed_norm(x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor) -> Tensor:
    """Return SiLU(normalize(x) * mixed scale + mixed shift) for x [N, C, H, W], in its dtype.

    scale, shift: [N, O + 1, C]: row 0, plus the others by `weight` [N, H * W, O], whose gradient is computed, too.
    """
    return _MixedNorm.apply(x, scale, shift, weight)


class _MixedNorm(torch.autograd.Function):
    """The operation of `mixed_norm`; of image size, its backward pass keeps only the input and the weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor) -> Tensor:
        output, rstd = normalized_pixels(x)
        modulate_by_objects_(output, scale, shift, weight)
        ctx.save_for_backward(x, scale, shift, weight, rstd)
        return as_features(output, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, scale, shift, weight, rstd = ctx.saved_tensors
        normalized, _ = normalized_pixels(x)
        outer = by_pixel(grad).to(normalized.dtype).contiguous()
        grad = torch.empty_like(outer)  # of the input of SiLU
        grad_weight, grad_scale, grad_shift = (torch.zeros_like(tensor) for tensor in (weight, scale, shift))
        for part in cached_parts(grad):
            block, images = normalized[part], part[0]
            before = torch.addcmul(_mixed(shift, weight, part), block, _mixed(scale, weight, part))
            torch.ops.aten.silu_backward.grad_input(outer[part], before, grad_input=grad[part])
            product = torch.mul(grad[part], block, out=before)
            for sums, values, table in ((grad_shift, grad[part], shift), (grad_scale, product, scale)):
                sums[images, :1] += values.sum(1, keepdim=True)
                sums[images, 1:] += weight[part].transpose(1, 2) @ values
                grad_weight[part] += values @ table[images, 1:].transpose(1, 2)
        # The mixed scale is linear in the tables, so the sums over the pixels of an image follow from their gradients.
        sums = torch.stack([(scale * grad_shift).sum(1), (scale * grad_scale).sum(1)])
        mean, slope, rstd = input_gradient_terms(sums, rstd, normalized.shape[1])
        factor, grad_x = scale * rstd[:, None], normalized
        for part in cached_parts(grad_x):
            block = grad_x[part].mul_(slope[part[0], None]).add_(mean[part[0], None])
            block.addcmul_(grad[part], _mixed(factor, weight, part))
        return as_features(grad_x, x), grad_scale, grad_shift, grad_weight


def _mixed(table: Tensor, weight: Tensor, part: Part) -> Tensor:
    """Return row 0 of `table` [N, O + 1, C] plus the others by `weight`, for the pixels of `part`, [n, pixels, C]."""
    own = table[part[0]]
    return torch.baddbmm(own[:, :1], weight[part], own[:, 1:])
