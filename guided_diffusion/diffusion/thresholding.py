"""What may be done to a predicted x0 before a sampler goes on from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from guided_diffusion.diffusion.gaussian import DenoisedFn
from guided_diffusion.runtime.errors import ConfigError


def dynamic_threshold(quantile: float) -> DenoisedFn:
    """Return the `denoised_fn` of dynamic thresholding (Saharia et al. 2022, section 2.3).

    For each image, s is the `quantile` of |x0| over all its channels and pixels, at least 1; x0 is clamped to [-s, s]
    and divided by s. What comes out lies in [-1, 1], so that clipping afterwards changes nothing; other than clipping
    alone, this keeps a strongly guided image from being saturated in large areas.

    Raises ConfigError where `quantile` is not in (0, 1].
    """
    if not 0 < quantile <= 1:
        raise ConfigError(f"dynamic_threshold: must be above 0 and at most 1 (0.995 is usual), found {quantile}")

    def threshold(x0: Tensor, t: Tensor) -> Tensor:
        limit = magnitude_quantile(x0, quantile).clamp(min=1).view(-1, *(1,) * (x0.ndim - 1))
        return x0.clamp(-limit, limit) / limit

    return threshold


def extrapolation(weight: float) -> DenoisedFn:
    """Return the `denoised_fn` of the published SCDM samplers: x0 + weight * (x0 - what this gave one step before).

    For few steps: it goes on in the direction in which the predicted x0 changes. A step that is not less noisy than
    the call before it is the first of another image, and stays as it is; so one function serves batch after batch.

    Raises ConfigError where `weight` is negative or not finite.
    """
    if not 0 <= weight < math.inf:
        raise ConfigError(f"extrapolation: must be at least 0 (0.8 is published for 25 steps), found {weight}")
    before: tuple[Tensor, Tensor] | None = None

    def extrapolate(x0: Tensor, t: Tensor) -> Tensor:
        nonlocal before
        ahead = x0
        if before is not None and before[0].shape == x0.shape:
            # Decided on the device: reading `t` would wait for it.
            going_on = (t < before[1]).view(-1, *(1,) * (x0.ndim - 1))
            ahead = torch.where(going_on, x0 + weight * (x0 - before[0]), x0)
        before = ahead, t
        return ahead

    return extrapolate


def in_turn(functions: Sequence[DenoisedFn]) -> DenoisedFn | None:
    """Return the `denoised_fn` that applies `functions` one after the other; None where there are none.

    As published, extrapolation comes before thresholding, and goes on from what was not thresholded.
    """
    if not functions:
        return None

    def apply(x0: Tensor, t: Tensor) -> Tensor:
        for function in functions:
            x0 = function(x0, t)
        return x0

    return apply


def magnitude_quantile(x: Tensor, quantile: float) -> Tensor:
    """Return the quantile of |x| [N, ...] of each image, [N], linearly interpolated between the two nearest values.

    What `torch.quantile` is, but for images of any size: that one refuses 2^24 elements in older PyTorch versions.
    """
    magnitudes = x.abs().flatten(1)
    position = quantile * (magnitudes.shape[1] - 1)
    below = math.floor(position)
    ranks = (below + 1, min(below + 2, magnitudes.shape[1]))
    # Two selections take a third of the time of sorting, and one image at a time bounds the memory of their indices.
    low, high = (torch.stack([image.kthvalue(rank).values for image in magnitudes]) for rank in ranks)
    return low.lerp(high, position - below)
