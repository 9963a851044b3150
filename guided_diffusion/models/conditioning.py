"""How a semantic map reaches the features: spatially varying scale and shift after a normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from guided_diffusion.models.layers import GroupNorm32
from guided_diffusion.semantic_map import SemanticMap


@dataclass(frozen=True)
class Modulation:
    """The scale and shift of one conditioned normalisation: a function of the condition, not of image or timestep.

    gamma, beta: [N, C, H, W].
    """

    gamma: Tensor
    beta: Tensor

    def __len__(self) -> int:
        return self.gamma.shape[0]

    def apply(self, x: Tensor) -> Tensor:
        """Return x * (1 + gamma) + beta for normalised features x [N, C, H, W].

        Park et al. 2019, equation 1; the 1 is not in the paper but in the published networks.
        """
        return x * (1 + self.gamma) + self.beta

    def expand(self, n: int) -> Modulation:
        """Return a modulation of batch size 1 as one of batch size `n`, sharing its memory."""
        assert len(self) == 1, f"only a modulation of one map can stand for {n}, this one has {len(self)}"
        return Modulation(self.gamma.expand(n, -1, -1, -1), self.beta.expand(n, -1, -1, -1))

    @staticmethod
    def cat(modulations: Sequence[Modulation]) -> Modulation:
        """Concatenate modulations of the same normalisation along the batch."""
        return Modulation(torch.cat([m.gamma for m in modulations]), torch.cat([m.beta for m in modulations]))


class ResizedCondition:
    """A semantic map at the size of one UNet level, with the encoding that all normalisations of that level share."""

    def __init__(self, condition: SemanticMap, size: tuple[int, int]):
        self.map = condition.resize(size)

    @cached_property
    def one_hot(self) -> Tensor:
        """The map as [N, channels, H, W], float32."""
        return self.map.one_hot()


class SPADEGroupNorm(nn.Module):
    """Group normalisation with a spatially adaptive scale and shift, here by convolutions on the one-hot map.

    Park et al., "Semantic Image Synthesis with Spatially-Adaptive Normalization", 2019; with group normalisation as in
    SDM (Wang et al., "Semantic Image Synthesis via Diffusion Models", 2022).

    channels: of the features. condition_channels: of the one-hot map. hidden: width of the layer between the two.
    """

    def __init__(self, channels: int, condition_channels: int, *, hidden: int = 128):
        super().__init__()
        self.norm = GroupNorm32(channels, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(condition_channels, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def modulate(self, condition: ResizedCondition) -> Modulation:
        """Return the modulation that `condition`, resized to the features this layer normalises, asks for."""
        hidden = self.mlp_shared(condition.one_hot.to(self.mlp_gamma.weight.dtype))
        return Modulation(self.mlp_gamma(hidden), self.mlp_beta(hidden))

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Return x [N, C, H, W] normalised, then modulated."""
        return modulation.apply(self.norm(x))
