"""What may be done to a predicted x0 before a sampler goes on from it (`X0Hook`)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from guided_diffusion.diffusion.denoiser import X0Hook
from guided_diffusion.runtime.errors import ConfigError


def clip(x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Return `x0` clamped to [-1, 1]."""
    return x0.clamp(-1, 1)


def dynamic_threshold(quantile: float) -> X0Hook:
    """Return the hook of dynamic thresholding (Saharia et al. 2022, section 2.3); it keeps no state.

    For each image, s is the `quantile` (in (0, 1], else ConfigError) of |x0|, at least 1; x0 is clamped to [-s, s] and
    divided by s. Other than clipping alone, this keeps large areas of a strongly guided image from being saturated.
    """
    if not 0 < quantile <= 1:
        raise ConfigError(f"dynamic_threshold: must be above 0 and at most 1 (0.995 is usual), found {quantile}")

    def threshold(x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        limit = magnitude_quantile(x0, quantile).clamp(min=1).view(-1, *(1,) * (x0.ndim - 1))
        return x0.clamp(-limit, limit) / limit

    return threshold


class Extrapolation:
    """x0 + weight * (x0 - what this gave one step before), as the published SCDM samplers have it for few steps.

    Remembers the step before, so that each call of a sampler needs its own. ConfigError for a weight below 0.
    """

    def __init__(self, weight: float):
        if not 0 <= weight < math.inf:
            raise ConfigError(f"extrapolation: must be at least 0 (0.8 is published for 25 steps), found {weight}")
        self.weight = weight
        self._before: Tensor | None = None

    def __call__(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return x0 ahead in the direction in which the prediction changes; the first one as it is."""
        if self._before is not None:
            x0 = x0 + self.weight * (x0 - self._before)
        self._before = x0
        return x0


def magnitude_quantile(x: Tensor, quantile: float) -> Tensor:
    """Return the quantile of |x| [N, ...] of each image, [N], linearly interpolated between the two nearest values.

    As `torch.quantile`, but for images of any size: that one refuses 2^24 elements in older PyTorch versions.
    """
    magnitudes = x.abs().flatten(1)
    position = quantile * (magnitudes.shape[1] - 1)
    below = math.floor(position)
    ranks = (below + 1, min(below + 2, magnitudes.shape[1]))
    # Two selections take a third of the time of sorting, and one image at a time bounds the memory of their indices.
    low, high = (torch.stack([image.kthvalue(rank).values for image in magnitudes]) for rank in ranks)
    return low.lerp(high, position - below)
