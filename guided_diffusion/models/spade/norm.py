"""SPADE: a semantic map scales and shifts the features, pixel by pixel, after a normalization. See README.md here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion.conditions.base import Size
from guided_diffusion.conditions.patches import PatchCache, Patches, number_patches, precompute_patches
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.models.conditioning import ConditionedNorm, Conditioner, ConditionOptions, Modulation
from guided_diffusion.models.spade.kernels import BagSum
from guided_diffusion.models.spade.modulation import (
    DenseModulation,
    GatherIndex,
    LookupModulation,
    SummedModulation,
)

SpadeImpl = Literal["auto", "lookup", "mixed", "dense"]

MIXED_ABOVE = 0.4
"""Distinct 5x5 patches by pixels from which `auto` takes the mixed form; see docs/performance.md.

Below, the mixed form is about as fast, but in training it keeps gamma and beta of every pixel for the backward pass.
"""
DENSE_ABOVE = 0.35
"""Distinct 3x3 patches by pixels from which it takes the dense form."""
OF_ONE_LABEL = 25
"""Patches of a map of one label, by the distances to its borders: a null map is always looked up."""


class SpadeLevelCache:
    """A semantic map at the size of one UNet level, with what all normalizations of that level share.

    impl: how modulations are computed. patches: those of the map at this size, where they were counted already.
    """

    def __init__(self, condition: SemanticMap, size: Size, impl: SpadeImpl, patches: Patches | None = None):
        self._condition = condition
        self._size = size
        self._impl = impl
        self._counted = patches

    @cached_property
    def one_hot(self) -> Tensor:
        """The map as [N, channels, H, W], float32."""
        return self._condition.resize(self._size).one_hot()

    @cached_property
    def patches(self) -> Patches:
        """What there is to look up, and where."""
        return number_patches(self._condition, self._size) if self._counted is None else self._counted

    @cached_property
    def impl(self) -> SpadeImpl:
        """The form in which modulations are computed."""
        if self._impl != "auto":
            return self._impl
        patches, pixels = self.patches, self.patches.index.numel()
        if len(patches) <= max(MIXED_ABOVE * pixels, OF_ONE_LABEL):
            return "lookup"
        return "mixed" if len(patches.label) <= DENSE_ABOVE * pixels else "dense"

    @cached_property
    def gather_index(self) -> GatherIndex:
        """Where each pixel looks up."""
        return GatherIndex.of(self.patches.index, len(self.patches))

    @cached_property
    def channels(self) -> Tensor | None:
        """[P] int64, the channels of the one-hot map that are not zero everywhere; None where all are there.

        Few of many classes occur in a batch, and the others need no arithmetic.
        """
        patches, total = self.patches, self._condition.channels
        present = torch.unique(patches.label)
        present = present[present < self._condition.num_classes]
        if patches.edge is not None:
            present = F.pad(present, (0, 1), value=total - 1)
        return None if len(present) == total else present

    @cached_property
    def one_hot_3x3(self) -> Tensor:
        """[K3, 9 * channels] float32, the 3x3 patches in one-hot form, position by position."""
        patches = self.patches
        present = torch.arange(self._condition.channels, device=patches.label.device)
        present = present if self.channels is None else self.channels
        encoded = (patches.label[:, :, None] == present).float()
        if patches.edge is not None:
            encoded[:, :, -1] = patches.edge
        return encoded.flatten(1)

    @cached_property
    def patch_bags(self) -> BagSum:
        """The products that make up each 5x5 patch, of 9 * (K3 + 1), position by position."""
        patches_5x5, kinds = self.patches.patches_5x5, len(self.patches.label) + 1
        return BagSum(patches_5x5 + kinds * torch.arange(9, device=patches_5x5.device), 9 * kinds)

    @cached_property
    def pixel_bags(self) -> BagSum:
        """The same for each of N * H * W pixels."""
        bags = self.patch_bags
        return BagSum(bags.bags.index_select(0, self.patches.index.flatten()), bags.count)


class SPADEGroupNorm(ConditionedNorm):
    """Group normalization with a spatially adaptive scale and shift, two convolutions of the one-hot map.

    Park et al., 2019, with group normalization as in SDM (Wang et al., 2022): y = x_hat * (1 + gamma) + beta; the 1 is
    not in equation 1 of the paper but in the published networks. channels: of the features; condition_channels: of the
    one-hot map; hidden: width of the layer between the two.
    """

    def __init__(self, channels: int, condition_channels: int, *, hidden: int = 128):
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Conv2d(condition_channels, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def modulate(self, level: SpadeLevelCache) -> Modulation:
        """Return the modulation that the map of `level`, of the size of the features, asks for."""
        if level.impl == "dense":
            return self._dense(level)
        device = self.mlp_gamma.weight.device.type
        dtype = self.mlp_gamma.weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        # In full precision under autocast too: there is little to compute, and sums of halves would lose digits.
        with torch.autocast(device, enabled=False):
            if level.impl == "lookup":
                return LookupModulation(*map(level.patch_bags, self._products(level)), level.gather_index)
            return self._mixed(level, dtype)

    def _dense(self, level: SpadeLevelCache) -> Modulation:
        """Compute gamma and beta of every pixel as published: the reference that the other forms agree with."""
        hidden = self.mlp_shared(level.one_hot.to(self.mlp_gamma.weight.dtype))
        return DenseModulation(1 + self.mlp_gamma(hidden), self.mlp_beta(hidden))

    def _mixed(self, level: SpadeLevelCache, dtype: torch.dtype) -> Modulation:
        """Compute products once for each distinct 3x3 patch; each pixel sums up nine of them, in `dtype`."""
        products, size = self._products(level), level.patches.index.shape
        if self.mlp_gamma.weight.device.type == "cpu" and not torch.is_grad_enabled():
            return SummedModulation(*products, level.pixel_bags.bags.unflatten(0, (size[0], -1)))
        # One after the other, as the products may take more memory than their sums; these are as large as the
        # features, and of their type.
        return DenseModulation(
            *(level.pixel_bags(rows).to(dtype).unflatten(0, size).permute(0, 3, 1, 2) for rows in products)
        )

    def _products(self, level: SpadeLevelCache) -> Iterator[Tensor]:
        """Yield for 1 + gamma and for beta the products of which nine sum up to a value, [9 * (K3 + 1), C] each.

        Those of each distinct 3x3 patch with the weights of each of the nine positions; the bias is in those of the
        center, which never lies outside the image.
        """
        shared = self.mlp_shared[0]
        weight = shared.weight.permute(0, 2, 3, 1)  # a view, as weights lie in channels_last memory; so below
        if level.channels is not None:
            weight = weight.index_select(3, level.channels)
        hidden = F.relu(F.linear(level.one_hot_3x3.to(weight.dtype), weight.flatten(1), shared.bias))
        hidden = F.pad(hidden, (0, 0, 0, 1)).expand(9, -1, -1)  # the last row: outside the image
        for conv, center in ((self.mlp_gamma, 1 + self.mlp_gamma.bias), (self.mlp_beta, self.mlp_beta.bias)):
            products = torch.bmm(hidden, conv.weight.permute(2, 3, 1, 0).flatten(0, 1))
            products[4] += center
            yield products.flatten(0, 1)


@dataclass
class SpadeConditioner(Conditioner):
    """Makes SPADE normalizations, which semantic maps modulate.

    channels: of the one-hot map, a possible edge channel included.
    impl: how modulations are computed: "lookup", "mixed", "dense", or "auto" for the cheapest for the maps at hand. The
        result is the same but for rounding.
    """

    channels: int
    impl: SpadeImpl = "auto"

    @staticmethod
    def from_options(options: ConditionOptions) -> SpadeConditioner:
        """Return the conditioner of the published options."""
        assert options.num_classes is not None, "a network that follows masks needs num_classes"
        return SpadeConditioner(options.num_classes + (not options.no_instance), options.spade)

    def norm(self, channels: int) -> SPADEGroupNorm:
        return SPADEGroupNorm(channels, self.channels)

    def check(self, condition: SemanticMap) -> None:
        assert condition.channels == self.channels, (
            f"the condition has {condition.channels} channels, the network takes {self.channels}"
        )

    def prepare(self, condition: SemanticMap, sizes: Sequence[Size]) -> PatchCache | None:
        return None if self.impl == "dense" else precompute_patches(condition, sizes)

    def level(self, condition: SemanticMap, size: Size, prepared: PatchCache | None) -> SpadeLevelCache:
        assert prepared is None or len(prepared) == len(condition), "what was prepared is of another batch"
        return SpadeLevelCache(condition, size, self.impl, None if prepared is None else prepared.at(size))
