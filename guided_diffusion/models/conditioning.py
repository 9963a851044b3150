"""How a semantic map reaches the features: spatially varying scale and shift after a normalisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion.architecture import GROUPS
from guided_diffusion.models.normalisation import Rows, modulated_norm, normalise
from guided_diffusion.semantic_map import Neighbourhoods, SemanticMap, Size

Form = Literal["auto", "lookup", "dense"]

DENSE_ABOVE = 0.75
"""Distinct neighbourhoods by pixels from which `auto` takes the dense form; see docs/performance.md."""
OF_ONE_LABEL = 25
"""Neighbourhoods of a map of one label, by the distances to its borders: a null map is always looked up."""


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


@dataclass(frozen=True, eq=False)
class LookupModulation:
    """Scale and shift of one conditioned normalisation for each distinct neighbourhood.

    gamma, beta: [K, C].
    """

    gamma: Tensor
    beta: Tensor
    places: Places

    def __len__(self) -> int:
        return self.places.index.shape[0]

    def normalise(self, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        """Return SiLU(modulate(normalise(x)) * (1 + scale) + shift) for x [N, C, H, W] and scale, shift [N, C]."""
        rows = self.places.rows
        gamma, beta = (
            (1 + self.gamma).index_select(0, self.places.number),
            self.beta.index_select(0, self.places.number),
        )
        if scale is not None:
            factor = (1 + scale).index_select(0, rows.image)
            gamma, beta = gamma * factor, beta * factor + shift.index_select(0, rows.image)
        return modulated_norm(x, gamma, beta, rows, groups=GROUPS)


@dataclass(frozen=True, eq=False)
class DenseModulation:
    """Scale and shift of one conditioned normalisation for each pixel.

    gamma, beta: [N, C, H, W].
    """

    gamma: Tensor
    beta: Tensor

    def __len__(self) -> int:
        return self.gamma.shape[0]

    def normalise(self, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        """Return SiLU(modulate(normalise(x)) * (1 + scale) + shift) for x [N, C, H, W] and scale, shift [N, C]."""
        h = normalise(x, groups=GROUPS) * (1 + self.gamma) + self.beta
        if scale is not None:
            h = h * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        return F.silu(h)


@dataclass(frozen=True, eq=False)
class JoinedModulation:
    """Modulations of different form, one after the other along the batch."""

    parts: tuple[LookupModulation | DenseModulation, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def normalise(self, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        """Return what the parts make of their images of x [N, C, H, W]."""
        sizes = [len(part) for part in self.parts]
        scales, shifts = ([None] * len(sizes) if v is None else v.split(sizes) for v in (scale, shift))
        each = zip(self.parts, x.split(sizes), scales, shifts, strict=True)
        return torch.cat([part.normalise(*arguments) for part, *arguments in each])


Modulation = LookupModulation | DenseModulation | JoinedModulation


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
        shared: dict[Places, Places] = {}

        def expanded(layer: Modulation) -> Modulation:
            assert len(layer) == 1, f"only the modulation of one map can stand for {n}, this is of {len(layer)}"
            if isinstance(layer, DenseModulation):
                return DenseModulation(layer.gamma.expand(n, -1, -1, -1), layer.beta.expand(n, -1, -1, -1))
            if layer.places not in shared:
                shared[layer.places] = Places.of(layer.places.index.expand(n, -1, -1), layer.places.count)
            return LookupModulation(layer.gamma, layer.beta, shared[layer.places])

        return Modulations([expanded(layer) for layer in self])

    @staticmethod
    def cat(branches: Sequence[Modulations]) -> Modulations:
        """Concatenate modulations of the same network along the batch."""
        shared: dict[tuple[Places, ...], Places] = {}

        def joined(layers: Sequence[Modulation]) -> Modulation:
            if not all(isinstance(layer, LookupModulation) for layer in layers):
                return JoinedModulation(tuple(layers))
            key = tuple(layer.places for layer in layers)
            if key not in shared:
                before = [0, *accumulate(places.count for places in key)]
                index = torch.cat([places.index + start for places, start in zip(key, before, strict=False)])
                shared[key] = Places.of(index, before[-1])
            gamma, beta = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("gamma", "beta"))
            return LookupModulation(gamma, beta, shared[key])

        return Modulations([joined(layers) for layers in zip(*branches, strict=True)])


class LevelCondition:
    """A semantic map at the size of one UNet level, with what all normalisations of that level share."""

    def __init__(self, condition: SemanticMap, size: Size, form: Form):
        self._condition = condition
        self._size = size
        self._form = form

    @cached_property
    def neighbourhoods(self) -> Neighbourhoods:
        """What there is to look up, and where."""
        return self._condition.neighbourhoods(self._size)

    @cached_property
    def by_lookup(self) -> bool:
        """Whether modulations are looked up."""
        if self._form != "auto":
            return self._form == "lookup"
        return len(self.neighbourhoods) <= max(DENSE_ABOVE * self.neighbourhoods.index.numel(), OF_ONE_LABEL)

    @cached_property
    def places(self) -> Places:
        """Where each pixel looks up."""
        return Places.of(self.neighbourhoods.index, len(self.neighbourhoods))

    @cached_property
    def channels(self) -> Tensor | None:
        """[P] int64, the channels of the one-hot map that are not zero everywhere; None where all are there.

        Few of many classes occur in a batch, and the others need no arithmetic.
        """
        found, total = self.neighbourhoods, self._condition.channels
        present = torch.unique(found.label)
        present = present[present < self._condition.num_classes]
        if found.edge is not None:
            present = F.pad(present, (0, 1), value=total - 1)
        return None if len(present) == total else present

    @cached_property
    def one_hot_windows(self) -> Tensor:
        """[K3, 9 * channels] float32, the 3x3 neighbourhoods in one-hot form, position by position."""
        found = self.neighbourhoods
        present = torch.arange(self._condition.channels, device=found.label.device)
        present = present if self.channels is None else self.channels
        encoded = (found.label[:, :, None] == present).float()
        if found.edge is not None:
            encoded[:, :, -1] = found.edge
        return encoded.flatten(1)

    @cached_property
    def summands(self) -> tuple[Tensor, Tensor, Tensor]:
        """Which of 9 * (K3 + 1) products, position by position, make up each 5x5 neighbourhood, and the converse.

        [K, 9] int64, the products of each neighbourhood; [9 * K], the neighbourhoods by the products they are made of;
        [9 * (K3 + 1)], where those of each product begin.
        """
        parts, kinds = self.neighbourhoods.parts, len(self.neighbourhoods.label) + 1
        products = parts + kinds * torch.arange(9, device=parts.device)
        sizes = torch.bincount(products.flatten(), minlength=9 * kinds)
        return products, products.flatten().argsort(stable=True) // 9, sizes.cumsum(0) - sizes

    @cached_property
    def one_hot(self) -> Tensor:
        """The map as [N, channels, H, W], float32."""
        return self._condition.resize(self._size).one_hot()


class SPADEGroupNorm(nn.Module):
    """Group normalisation with a spatially adaptive scale and shift, two convolutions of the one-hot map.

    Park et al., "Semantic Image Synthesis with Spatially-Adaptive Normalization", 2019; with group normalisation as in
    SDM (Wang et al., "Semantic Image Synthesis via Diffusion Models", 2022). y = x_hat * (1 + gamma) + beta; the 1 is
    not in equation 1 of the paper but in the published networks.

    channels: of the features. condition_channels: of the one-hot map. hidden: width of the layer between the two.
    """

    def __init__(self, channels: int, condition_channels: int, *, hidden: int = 128):
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Conv2d(condition_channels, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def modulate(self, level: LevelCondition) -> LookupModulation | DenseModulation:
        """Return the modulation that the map of `level`, of the size of the features, asks for."""
        if level.by_lookup:
            # In full precision under autocast too: there is little to compute, and sums of halves would lose digits.
            with torch.autocast(self.mlp_gamma.weight.device.type, enabled=False):
                return self._look_up(level)
        hidden = self.mlp_shared(level.one_hot.to(self.mlp_gamma.weight.dtype))
        return DenseModulation(self.mlp_gamma(hidden), self.mlp_beta(hidden))

    def _look_up(self, level: LevelCondition) -> LookupModulation:
        """Run the two convolutions on each distinct neighbourhood once."""
        shared = self.mlp_shared[0]
        weight = shared.weight.permute(0, 2, 3, 1)  # a view, as weights lie in channels_last memory; so below
        if level.channels is not None:
            weight = weight.index_select(3, level.channels)
        hidden = F.relu(F.linear(level.one_hot_windows.to(weight.dtype), weight.flatten(1), shared.bias))
        hidden = F.pad(hidden, (0, 0, 0, 1))  # the last row: outside the image

        def table(conv: nn.Conv2d) -> Tensor:
            # Each 3x3 neighbourhood times each of the nine positions; then a sum of nine of these for each 5x5 one.
            products = F.linear(hidden, conv.weight.permute(0, 2, 3, 1).reshape(-1, hidden.shape[1]))
            products = products.view(len(hidden), -1, 9).permute(2, 0, 1).reshape(9 * len(hidden), -1)
            return _SumOfRows.apply(products, *level.summands) + conv.bias

        return LookupModulation(table(self.mlp_gamma), table(self.mlp_beta), level.places)

    def activated(
        self, x: Tensor, modulation: Modulation, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """Return SiLU(modulate(normalise(x)) * (1 + scale) + shift), x [N, C, H, W], scale and shift [N, C] or None."""
        return modulation.normalise(x, scale, shift)


class _SumOfRows(torch.autograd.Function):
    """Sums of chosen rows; the gradient sums over the users of each row, which are known beforehand."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, chosen: Tensor, users: Tensor, start: Tensor) -> Tensor:
        ctx.save_for_backward(users, start)
        return F.embedding_bag(chosen, rows, mode="sum")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        users, start = ctx.saved_tensors
        return F.embedding_bag(users, grad.contiguous(), start, mode="sum"), None, None, None
