"""SPADE's modulations: the forms in which scale and shift of every pixel are stored and applied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.models.conditioning import Modulation
from guided_diffusion.models.group_norm import RowIndex, by_pixel, modulate_by_rows_, modulated_norm, normalize
from guided_diffusion.models.spade.kernels import modulate_by_bags_


@dataclass(frozen=True, eq=False)
class DenseModulation(Modulation):
    """Scale and shift for each pixel.

    scale: [N, C, H, W], 1 + gamma. shift: [N, C, H, W], beta.
    """

    scale: Tensor
    shift: Tensor

    def __len__(self) -> int:
        return self.scale.shape[0]

    def with_gradients(self, x: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> Tensor:
        h = normalize(x) * self.scale + self.shift
        if time_scale is not None:
            h = h * (1 + time_scale[:, :, None, None]) + time_shift[:, :, None, None]
        return F.silu(h)

    def modulate_(self, pixels: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> None:
        pixels.mul_(by_pixel(self.scale)).add_(by_pixel(self.shift))
        if time_scale is not None:
            pixels.mul_(1 + time_scale[:, None]).add_(time_shift[:, None])
        F.silu(pixels, inplace=True)

    def expand(self, n: int, shared: dict[Any, Any]) -> DenseModulation:
        return DenseModulation(self.scale.expand(n, -1, -1, -1), self.shift.expand(n, -1, -1, -1))

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.scale, self.shift)


@dataclass(frozen=True, eq=False)
class GatherIndex:
    """Index from the pixels of a batch at one resolution to patches and table rows.

    index: [N, H, W] int64 in 0..count-1, the patch of each pixel. rows: one row for each patch of each image, as every
    image has its own timestep. patch: [M] int64, the patch of each row.
    """

    index: Tensor
    count: int
    rows: RowIndex
    patch: Tensor

    @staticmethod
    def of(index: Tensor, count: int) -> GatherIndex:
        """Return the index from the patch of each pixel, [N, H, W] int64 in 0..count-1."""
        image = torch.arange(len(index), device=index.device)[:, None]
        pairs, row = torch.unique(image * count + index.flatten(1), return_inverse=True)
        return GatherIndex(index, count, RowIndex.of(row, pairs // count), pairs % count)

    def expand(self, n: int) -> GatherIndex:
        """Return the index of one map repeated `n` times."""
        return GatherIndex.of(self.index.expand(n, -1, -1), self.count)

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor."""
        yield from (self.index, self.patch, self.rows.row, self.rows.image, *(self.rows.sums or ()))


@dataclass(frozen=True, eq=False)
class LookupModulation(Modulation):
    """Scale and shift for each distinct 5x5 patch.

    scale: [K, C], 1 + gamma. shift: [K, C], beta.
    """

    scale: Tensor
    shift: Tensor
    gather_index: GatherIndex

    def __len__(self) -> int:
        return self.gather_index.index.shape[0]

    def with_gradients(self, x: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> Tensor:
        return modulated_norm(x, *self._by_row(time_scale, time_shift), self.gather_index.rows)

    def modulate_(self, pixels: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> None:
        modulate_by_rows_(pixels, *self._by_row(time_scale, time_shift), self.gather_index.rows.row)

    def _by_row(self, time_scale: Tensor | None, time_shift: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return scale and shift of each table row, the timestep included, [M, C] each."""
        scale, shift = (table.index_select(0, self.gather_index.patch) for table in (self.scale, self.shift))
        if time_scale is None:
            return scale, shift
        image = self.gather_index.rows.image
        times = (1 + time_scale).index_select(0, image)
        return scale * times, shift * times + time_shift.index_select(0, image)

    def expand(self, n: int, shared: dict[Any, Any]) -> LookupModulation:
        if self.gather_index not in shared:
            shared[self.gather_index] = self.gather_index.expand(n)
        return LookupModulation(self.scale, self.shift, shared[self.gather_index])

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.scale, self.shift, *self.gather_index.tensors())


@dataclass(frozen=True, eq=False)
class SummedModulation(Modulation):
    """Scale and shift of each pixel as sums of nine products, computed when they are applied; without gradients.

    scale, shift: [P, C], products that sum up to 1 + gamma and to beta. bags: [N, H * W, 9] int64 in 0..P-1, the
    products of each pixel.
    """

    scale: Tensor
    shift: Tensor
    bags: Tensor

    def __len__(self) -> int:
        return self.bags.shape[0]

    def with_gradients(self, x: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> Tensor:
        raise AssertionError("made without gradients")

    def modulate_(self, pixels: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> None:
        modulate_by_bags_(pixels, self.scale, self.shift, self.bags, time_scale, time_shift)

    def expand(self, n: int, shared: dict[Any, Any]) -> SummedModulation:
        return SummedModulation(self.scale, self.shift, self.bags.expand(n, -1, -1))

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.scale, self.shift, self.bags)
