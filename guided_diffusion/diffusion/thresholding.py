"""What may be done to a predicted x0 before a sampler goes on from it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from guided_diffusion.diffusion.gaussian import DenoisedFn
from guided_diffusion.errors import ConfigError


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
