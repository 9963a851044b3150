"""How much each pixel of a training image counts in its loss."""

from __future__ import annotations

from torch import Tensor

KNOWN_WEIGHT = 0.05
"""Weight of the mean loss outside the hole, which the network is given and sampling replaces."""


def pixel_weights(inside: Tensor | None, hole: Tensor | None) -> Tensor | None:
    """Return weights [N, 1, H, W] float32 by which a mean over all pixels becomes the mean over the hole, plus
    `KNOWN_WEIGHT` times that over the rest; None where all pixels count alike.

    inside, hole: [N, H, W] booleans; a border (not `inside`) counts nowhere. Without a hole: the mean over `inside`.
    """
    if inside is None and hole is None:
        return None
    if hole is None:
        return _mean_over(inside)[:, None]
    if inside is None:
        return (_mean_over(hole) + KNOWN_WEIGHT * _mean_over(~hole))[:, None]
    return (_mean_over(hole & inside) + KNOWN_WEIGHT * _mean_over(~hole & inside))[:, None]


def _mean_over(pixels: Tensor) -> Tensor:
    """Return weights [N, H, W] with which a mean over all pixels is that over `pixels`; zeros where there are none."""
    chosen = pixels.float()
    return chosen / chosen.mean(dim=(1, 2), keepdim=True).clamp(min=1e-12)
