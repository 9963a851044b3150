"""Hooks that change a predicted x0 before a sampler continues with it (`X0Hook`)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from guided_diffusion.diffusion.denoiser import X0Hook


def clip(x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Return `x0` clamped to [-1, 1]."""
    return x0.clamp(-1, 1)


def dynamic_threshold(quantile: float) -> X0Hook:
    """Return the hook of dynamic thresholding (Saharia et al. 2022, section 2.3).

    For each image, s is the `quantile` (in (0, 1]) of |x0|, at least 1; x0 is clamped to [-s, s] and divided by s.
    Unlike clipping alone, this does not saturate large areas of strongly guided images.
    """
    assert 0 < quantile <= 1

    def threshold(x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        limit = magnitude_quantile(x0, quantile).clamp(min=1).view(-1, *(1,) * (x0.ndim - 1))
        return x0.clamp(-limit, limit) / limit

    return threshold


class Extrapolation:
    """x0 + weight * (x0 - the result of the step before), as in the published SCDM samplers for few steps.

    It remembers the step before: make a new one for each call of a sampler.
    """

    def __init__(self, weight: float):
        assert 0 <= weight < math.inf
        self.weight = weight
        self._before: Tensor | None = None

    def __call__(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the extrapolated x0; in the first step x0 itself."""
        if self._before is not None:
            x0 = x0 + self.weight * (x0 - self._before)
        self._before = x0
        return x0


def magnitude_quantile(x: Tensor, quantile: float) -> Tensor:
    """Return the quantile of |x| [N, ...] for each image, [N], linearly interpolated between the two nearest values.

    Unlike `torch.quantile`, which refused more than 2^24 elements in older versions, it takes images of any size.
    """
    magnitudes = x.abs().flatten(1)
    position = quantile * (magnitudes.shape[1] - 1)
    below = math.floor(position)
    ranks = (below + 1, min(below + 2, magnitudes.shape[1]))
    # Two selections take a third of the time of sorting. One image at a time bounds the memory of their indices.
    low, high = (torch.stack([image.kthvalue(rank).values for image in magnitudes]) for rank in ranks)
    return low.lerp(high, position - below)
