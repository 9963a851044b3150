"""How a semantic map reaches the features: spatially varying scale and shift after a normalisation.

The two convolutions of SPADE are computed in one of three forms, which give the same result to rounding:

lookup: once for each distinct 5x5 neighbourhood of the batch.
mixed: the first convolution and its products with the second one's weights once for each distinct 3x3 neighbourhood;
    each pixel sums nine of the products. For maps of noise, whose 5x5 neighbourhoods are all different.
dense: for every pixel, as published. For noise in many classes, whose 3x3 neighbourhoods are all different, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion.conditions.semantic_map import Neighbourhoods, SemanticMap, Size
from guided_diffusion.models.spade.kernels import Sums
from guided_diffusion.models.spade.modulation import (
    DenseModulation,
    LookupModulation,
    Modulation,
    Places,
    SummedModulation,
)

Form = Literal["auto", "lookup", "mixed", "dense"]

MIXED_ABOVE = 0.4
"""Distinct 5x5 neighbourhoods by pixels from which `auto` takes the mixed form; see docs/performance.md.

Below, the mixed form is about as fast, but in training it keeps gamma and beta of every pixel for the backward pass.
"""
DENSE_ABOVE = 0.35
"""Distinct 3x3 neighbourhoods by pixels from which it takes the dense form."""
OF_ONE_LABEL = 25
"""Neighbourhoods of a map of one label, by the distances to its borders: a null map is always looked up."""


class SumsOfProducts:
    """What sums up rows of a table of products.

    chosen: [K, 9] int64 in 0..count-1, the rows that make up each sum. count: rows of the table.
    """

    def __init__(self, chosen: Tensor, count: int):
        self.chosen = chosen
        self.count = count

    def __call__(self, products: Tensor) -> Tensor:
        """Return the sums [K, C] of `products` [count, C]."""
        if torch.is_grad_enabled():
            return _SumOfRows.apply(products, self.chosen, *self.users)
        return F.embedding_bag(self.chosen, products, mode="sum")

    @cached_property
    def users(self) -> Sums:
        """What sums up, for each product, the gradients of the sums that it is part of."""
        found = Sums.by(self.chosen.flatten(), self.count)
        return found._replace(order=found.order // self.chosen.shape[1])


class _SumOfRows(torch.autograd.Function):
    """Sums of chosen rows; the gradient sums over the users of each row, which are known beforehand."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, chosen: Tensor, *users: Tensor) -> Tensor:
        ctx.save_for_backward(*users)
        return F.embedding_bag(chosen, rows, mode="sum")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return Sums(*ctx.saved_tensors)(grad.contiguous()), None, None, None, None


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
    def form(self) -> Form:
        """The form in which modulations are computed."""
        if self._form != "auto":
            return self._form
        found, pixels = self.neighbourhoods, self.neighbourhoods.index.numel()
        if len(found) <= max(MIXED_ABOVE * pixels, OF_ONE_LABEL):
            return "lookup"
        return "mixed" if len(found.label) <= DENSE_ABOVE * pixels else "dense"

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
    def of_neighbourhoods(self) -> SumsOfProducts:
        """The products that make up each 5x5 neighbourhood, of 9 * (K3 + 1), position by position."""
        parts, kinds = self.neighbourhoods.parts, len(self.neighbourhoods.label) + 1
        return SumsOfProducts(parts + kinds * torch.arange(9, device=parts.device), 9 * kinds)

    @cached_property
    def of_pixels(self) -> SumsOfProducts:
        """The same for each of N * H * W pixels."""
        chosen, count = self.of_neighbourhoods.chosen, self.of_neighbourhoods.count
        return SumsOfProducts(chosen.index_select(0, self.neighbourhoods.index.flatten()), count)

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

    def modulate(self, level: LevelCondition) -> Modulation:
        """Return the modulation that the map of `level`, of the size of the features, asks for."""
        if level.form == "dense":
            hidden = self.mlp_shared(level.one_hot.to(self.mlp_gamma.weight.dtype))
            return DenseModulation(1 + self.mlp_gamma(hidden), self.mlp_beta(hidden))
        device, dtype = self.mlp_gamma.weight.device.type, self.mlp_gamma.weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        # In full precision under autocast too: there is little to compute, and sums of halves would lose digits.
        with torch.autocast(device, enabled=False):
            products = self._products(level)
            if level.form == "lookup":
                return LookupModulation(*map(level.of_neighbourhoods, products), level.places)
            size = level.neighbourhoods.index.shape
            if device == "cpu" and not torch.is_grad_enabled():
                return SummedModulation(*products, level.of_pixels.chosen.unflatten(0, (size[0], -1)))
            # One after the other, as the products may take more memory than their sums; these are as large as the
            # features, and of their type.
            return DenseModulation(
                *(level.of_pixels(rows).to(dtype).unflatten(0, size).permute(0, 3, 1, 2) for rows in products)
            )

    def _products(self, level: LevelCondition) -> Iterator[Tensor]:
        """Yield of 1 + gamma and of beta the products of which nine sum up to a value, [9 * (K3 + 1), C] each.

        Those of each distinct 3x3 neighbourhood with the weights of each of the nine positions; the bias is in those
        of the centre, which never lies outside the image.
        """
        shared = self.mlp_shared[0]
        weight = shared.weight.permute(0, 2, 3, 1)  # a view, as weights lie in channels_last memory; so below
        if level.channels is not None:
            weight = weight.index_select(3, level.channels)
        hidden = F.relu(F.linear(level.one_hot_windows.to(weight.dtype), weight.flatten(1), shared.bias))
        hidden = F.pad(hidden, (0, 0, 0, 1)).expand(9, -1, -1)  # the last row: outside the image
        for conv, centre in ((self.mlp_gamma, 1 + self.mlp_gamma.bias), (self.mlp_beta, self.mlp_beta.bias)):
            products = torch.bmm(hidden, conv.weight.permute(2, 3, 1, 0).flatten(0, 1))
            products[4] += centre
            yield products.flatten(0, 1)

    def activated(
        self, x: Tensor, modulation: Modulation, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """Return SiLU(modulate(normalise(x)) * (1 + scale) + shift), x [N, C, H, W], scale and shift [N, C] or None."""
        return modulation.normalise(x, scale, shift)
