"""Modulations: scale and shift of the conditioned normalisations, in the form that is cheapest to make and to apply.

Without gradients they are applied in place to normalised features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.models.architecture import GROUPS
from guided_diffusion.models.spade.kernels import (
    Rows,
    as_features,
    by_pixel,
    modulate_by_rows_,
    modulate_by_sums_,
    modulated_norm,
    normalise,
    normalised_pixels,
)


@dataclass(frozen=True, eq=False)
class Places:
    """Which neighbourhood each pixel of a batch has, at one resolution, and which table rows follow from that.

    index: [N, H, W] int64 in 0..count-1.
    rows: one row for each neighbourhood of each image, as every image has its own timestep.
    number: [M] int64, the neighbourhood of each of `rows`.
    """

    index: Tensor
    count: int
    rows: Rows
    number: Tensor

    @staticmethod
    def of(index: Tensor, count: int) -> Places:
        """Return the places of `index` [N, H, W] int64 in 0..count-1."""
        image = torch.arange(len(index), device=index.device)[:, None]
        pairs, row = torch.unique(image * count + index.flatten(1), return_inverse=True)
        return Places(index, count, Rows.of(row, pairs // count), pairs % count)


class Modulation(ABC):
    """Scale and shift of one conditioned normalisation for a batch of maps."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of maps."""

    def normalise(self, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        """Return SiLU(modulate(normalise(x)) * (1 + scale) + shift) for x [N, C, H, W] and scale, shift [N, C]."""
        if torch.is_grad_enabled():
            return self.with_gradients(x, scale, shift)
        pixels = normalised_pixels(x, groups=GROUPS)
        self.modulate_(pixels, scale, shift)
        return as_features(pixels, x)

    @abstractmethod
    def with_gradients(self, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        """Return what `normalise` does, in operations that autograd can follow."""

    @abstractmethod
    def modulate_(self, pixels: Tensor, scale: Tensor | None, shift: Tensor | None) -> None:
        """Change normalised `pixels` [N, H * W, C] to SiLU(modulate(pixels) * (1 + scale) + shift)."""

    @abstractmethod
    def expand(self, n: int, places: dict[Places, Places]) -> Modulation:
        """Return the modulation of one map as that of `n` such maps; `places`: those that were expanded before."""


@dataclass(frozen=True, eq=False)
class LookupModulation(Modulation):
    """Scale and shift for each distinct neighbourhood.

    factor: [K, C], 1 + gamma. beta: [K, C].
    """

    factor: Tensor
    beta: Tensor
    places: Places

    def __len__(self) -> int:
        return self.places.index.shape[0]

    def with_gradients(self, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        return modulated_norm(x, *self._by_row(scale, shift), self.places.rows, groups=GROUPS)

    def modulate_(self, pixels: Tensor, scale: Tensor | None, shift: Tensor | None) -> None:
        modulate_by_rows_(pixels, *self._by_row(scale, shift), self.places.rows.row)

    def _by_row(self, scale: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the whole scale and shift of each table row, [M, C] each."""
        factor, beta = (table.index_select(0, self.places.number) for table in (self.factor, self.beta))
        if scale is None:
            return factor, beta
        image = self.places.rows.image
        times = (1 + scale).index_select(0, image)
        return factor * times, beta * times + shift.index_select(0, image)

    def expand(self, n: int, places: dict[Places, Places]) -> LookupModulation:
        if self.places not in places:
            places[self.places] = Places.of(self.places.index.expand(n, -1, -1), self.places.count)
        return LookupModulation(self.factor, self.beta, places[self.places])


@dataclass(frozen=True, eq=False)
class SummedModulation(Modulation):
    """Scale and shift of each pixel as sums of looked-up products, made when they are applied; without gradients.

    factor: [P, C], products of which nine sum up to 1 + gamma. beta: [P, C].
    chosen: [N, H * W, 9] int64 in 0..P-1, the products of each pixel.
    """

    factor: Tensor
    beta: Tensor
    chosen: Tensor

    def __len__(self) -> int:
        return self.chosen.shape[0]

    def with_gradients(self, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        raise AssertionError("a modulation that was made without gradients has none")

    def modulate_(self, pixels: Tensor, scale: Tensor | None, shift: Tensor | None) -> None:
        modulate_by_sums_(pixels, self.factor, self.beta, self.chosen, scale, shift)

    def expand(self, n: int, places: dict[Places, Places]) -> SummedModulation:
        return SummedModulation(self.factor, self.beta, self.chosen.expand(n, -1, -1))


@dataclass(frozen=True, eq=False)
class DenseModulation(Modulation):
    """Scale and shift for each pixel.

    factor: [N, C, H, W], 1 + gamma. beta: [N, C, H, W].
    """

    factor: Tensor
    beta: Tensor

    def __len__(self) -> int:
        return self.factor.shape[0]

    def with_gradients(self, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        h = normalise(x, groups=GROUPS) * self.factor + self.beta
        if scale is not None:
            h = h * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        return F.silu(h)

    def modulate_(self, pixels: Tensor, scale: Tensor | None, shift: Tensor | None) -> None:
        pixels.mul_(by_pixel(self.factor)).add_(by_pixel(self.beta))
        if scale is not None:
            pixels.mul_(1 + scale[:, None]).add_(shift[:, None])
        F.silu(pixels, inplace=True)

    def expand(self, n: int, places: dict[Places, Places]) -> DenseModulation:
        return DenseModulation(self.factor.expand(n, -1, -1, -1), self.beta.expand(n, -1, -1, -1))


@dataclass(frozen=True, eq=False)
class JoinedModulation(Modulation):
    """Modulations one after the other along the batch."""

    parts: tuple[Modulation, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def with_gradients(self, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        return torch.cat([part.with_gradients(*images) for part, *images in self._split(x, scale, shift)])

    def modulate_(self, pixels: Tensor, scale: Tensor | None, shift: Tensor | None) -> None:
        for part, *images in self._split(pixels, scale, shift):
            part.modulate_(*images)

    def _split(self, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Iterator[tuple]:
        sizes = [len(part) for part in self.parts]
        scales, shifts = ([None] * len(sizes) if v is None else v.split(sizes) for v in (scale, shift))
        return zip(self.parts, x.split(sizes), scales, shifts, strict=True)

    def expand(self, n: int, places: dict[Places, Places]) -> Modulation:
        raise AssertionError(f"only the modulation of one map can stand for {n}, this is of {len(self)}")


class Modulations(Sequence[Modulation]):
    """The modulations of all conditioned normalisations of a network, in the order in which its decoder takes them.

    They are a function of the condition, not of image or timestep.
    """

    def __init__(self, layers: Sequence[Modulation]):
        self._layers = tuple(layers)

    def __getitem__(self, index: int) -> Modulation:
        return self._layers[index]

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Modulation]:
        return iter(self._layers)

    def expand(self, n: int) -> Modulations:
        """Return modulations of one map as those of `n` such maps."""
        places: dict[Places, Places] = {}
        for layer in self:
            assert len(layer) == 1, f"only the modulation of one map can stand for {n}, this is of {len(layer)}"
        return Modulations([layer.expand(n, places) for layer in self])

    @staticmethod
    def cat(branches: Sequence[Modulations]) -> Modulations:
        """Concatenate modulations of the same network along the batch."""
        return Modulations([JoinedModulation(layers) for layers in zip(*branches, strict=True)])
