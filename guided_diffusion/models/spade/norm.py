"""SPADE: a semantic map scales and shifts normalized features, pixel by pixel. See README.md in this folder."""

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
from guided_diffusion.models.spade.modulation import DenseModulation, GatherIndex, LookupModulation, SummedModulation

SpadeImpl = Literal["auto", "lookup", "mixed", "dense"]

# Limits of `auto`, see docs/performance.md.
MIXED_ABOVE = 0.4
"""Distinct 5x5 patches / pixels above which to use the mixed form, not lookup. In training, mixed needs more memory."""
DENSE_ABOVE = 0.35
"""Distinct 3x3 patches / pixels above which to use the dense form, not mixed."""
OF_ONE_LABEL = 25
"""Distinct 5x5 patches of a map of one label, because of its borders: a null map always uses lookup."""


class SpadeLevelCache:
    """A semantic map at the size of one UNet level, with the tensors that all normalizations of the level share.

    patches: those of the map at this size, None to number them here.
    """

    def __init__(self, condition: SemanticMap, size: Size, impl: SpadeImpl, patches: Patches | None = None):
        self._condition = condition
        self._size = size
        self._impl = impl
        self._precomputed = patches

    @cached_property
    def one_hot(self) -> Tensor:
        """The map as [N, channels, H, W], float32."""
        return self._condition.resize(self._size).one_hot()

    @cached_property
    def patches(self) -> Patches:
        """The distinct patches of the map."""
        return number_patches(self._condition, self._size) if self._precomputed is None else self._precomputed

    @cached_property
    def impl(self) -> SpadeImpl:
        """The form of the modulations, with "auto" decided."""
        if self._impl != "auto":
            return self._impl
        patches, pixels = self.patches, self.patches.index.numel()
        if len(patches) <= max(MIXED_ABOVE * pixels, OF_ONE_LABEL):
            return "lookup"
        return "mixed" if len(patches.label) <= DENSE_ABOVE * pixels else "dense"

    @cached_property
    def gather_index(self) -> GatherIndex:
        """The index from pixels to patches."""
        return GatherIndex.of(self.patches.index, len(self.patches))

    @cached_property
    def channels(self) -> Tensor | None:
        """[P] int64, the channels of the one-hot map that are not zero everywhere; None for all channels.

        Often a batch has few of many classes; the other channels can be skipped.
        """
        patches, total = self.patches, self._condition.channels
        present = torch.unique(patches.label)
        present = present[present < self._condition.num_classes]
        if patches.edge is not None:
            present = F.pad(present, (0, 1), value=total - 1)
        return None if len(present) == total else present

    @cached_property
    def one_hot_3x3(self) -> Tensor:
        """The one-hot 3x3 patches, [K3, 9 * channels] float32, by position."""
        patches = self.patches
        present = torch.arange(self._condition.channels, device=patches.label.device)
        present = present if self.channels is None else self.channels
        encoded = (patches.label[:, :, None] == present).float()
        if patches.edge is not None:
            encoded[:, :, -1] = patches.edge
        return encoded.flatten(1)

    @cached_property
    def patch_bags(self) -> BagSum:
        """The nine products of each 5x5 patch, among 9 * (K3 + 1), by position."""
        patches_5x5, kinds = self.patches.patches_5x5, len(self.patches.label) + 1
        return BagSum(patches_5x5 + kinds * torch.arange(9, device=patches_5x5.device), 9 * kinds)

    @cached_property
    def pixel_bags(self) -> BagSum:
        """The nine products of each of N * H * W pixels."""
        bags = self.patch_bags
        return BagSum(bags.bags.index_select(0, self.patches.index.flatten()), bags.count)


class SPADEGroupNorm(ConditionedNorm):
    """y = x_hat * (1 + gamma) + beta, with gamma and beta from convolutions of the one-hot map (Park et al. 2019).

    Group normalization as in SDM (Wang et al. 2022). The 1 is not in equation 1 of Park et al., but in all published
    networks. condition_channels: of the one-hot map. hidden: channels between the two convolutions.
    """

    def __init__(self, channels: int, condition_channels: int, *, hidden: int = 128):
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Conv2d(condition_channels, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def modulate(self, level: SpadeLevelCache) -> Modulation:
        """Return the modulation for the map of `level`, which has the size of the features."""
        if level.impl == "dense":
            return self._dense(level)
        device = self.mlp_gamma.weight.device.type
        dtype = self.mlp_gamma.weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        # In full precision also under autocast: it is cheap, and sums in half precision would lose digits.
        with torch.autocast(device, enabled=False):
            if level.impl == "lookup":
                return LookupModulation(*map(level.patch_bags, self._products(level)), level.gather_index)
            return self._mixed(level, dtype)

    def _dense(self, level: SpadeLevelCache) -> Modulation:
        """Compute gamma and beta of every pixel as published: the reference for the other forms."""
        hidden = self.mlp_shared(level.one_hot.to(self.mlp_gamma.weight.dtype))
        return DenseModulation(1 + self.mlp_gamma(hidden), self.mlp_beta(hidden))

    def _mixed(self, level: SpadeLevelCache, dtype: torch.dtype) -> Modulation:
        """Compute products once for each distinct 3x3 patch; each pixel sums nine of them, in `dtype`."""
        products, size = self._products(level), level.patches.index.shape
        if self.mlp_gamma.weight.device.type == "cpu" and not torch.is_grad_enabled():
            return SummedModulation(*products, level.pixel_bags.bags.unflatten(0, (size[0], -1)))
        # One after the other: the products may need more memory than their sums, which are as large as the features.
        return DenseModulation(
            *(level.pixel_bags(rows).to(dtype).unflatten(0, size).permute(0, 3, 1, 2) for rows in products)
        )

    def _products(self, level: SpadeLevelCache) -> Iterator[Tensor]:
        """Yield the products whose sums of nine are 1 + gamma, then those for beta, [9 * (K3 + 1), C] each.

        They are products of the hidden vectors of each distinct 3x3 patch with the weights of each of the nine
        positions. The center, which is never outside the image, includes the bias.
        """
        shared = self.mlp_shared[0]
        weight = shared.weight.permute(0, 2, 3, 1)  # contiguous, as the weights are channels_last
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
    """Makes SPADE normalizations for semantic maps.

    channels: of the one-hot map, with an edge channel if there is one. impl: the form of the modulations; "auto" is the
    cheapest for the given maps. All give the same result except for rounding.
    """

    channels: int
    impl: SpadeImpl = "auto"

    @staticmethod
    def from_options(options: ConditionOptions) -> SpadeConditioner:
        """Return the conditioner of the published options."""
        assert options.num_classes is not None, "a network conditioned on masks needs num_classes"
        return SpadeConditioner(options.num_classes + (not options.no_instance), options.spade)

    def norm(self, channels: int) -> SPADEGroupNorm:
        return SPADEGroupNorm(channels, self.channels)

    def check(self, condition: SemanticMap) -> None:
        found = condition.channels
        assert found == self.channels, f"the condition has {found} channels, the network takes {self.channels}"

    def prepare(self, condition: SemanticMap, sizes: Sequence[Size]) -> PatchCache | None:
        return None if self.impl == "dense" else precompute_patches(condition, sizes)

    def level(self, condition: SemanticMap, size: Size, prepared: PatchCache | None) -> SpadeLevelCache:
        assert prepared is None or len(prepared) == len(condition), "prepared for another batch"
        return SpadeLevelCache(condition, size, self.impl, None if prepared is None else prepared.at(size))
