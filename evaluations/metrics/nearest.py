"""The nearest training image of every sample, by pixels and by features, under all flips and turns.

Distances of pixels are root mean squares in gray levels over images averaged down to at most 32 pixels a side. See
evaluations/README.md for why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluations.sets import Images, Indices
from evaluations.symmetry import apply_d4, d4_of

Values = NDArray[np.float64]

WHOLE, TRIMMED, FEATURES = "whole image", "best 75 % of the image", "features"  # the distances
NEIGHBORHOOD = 50  # as Carlini et al. 2023; at most half of the training images
LONGEST_SIDE = 32  # pixels
BLOCKS = 8  # a side
BEST_BLOCKS = 48  # of 64
MOST_SHIFT = 10.0  # gray levels
RESOLUTION = 1e-3  # smaller distances, in gray levels or of unit vectors, are rounding


@dataclass(frozen=True)
class Nearest:
    """The nearest training image of N images by one distance: the distance, its index and its symmetry, [N] each.

    usual: [N], the median distance to the n nearest training images, n = 50 or half of the training images if fewer.
    Of the distance of whole images, that to a plain image where these are all the same.
    """

    distance: Values
    index: Indices
    symmetry: Indices
    usual: Values

    @property
    def ratio(self) -> Values:
        """The distance over the usual one, [N] in 0..1; 1 where all neighbors are equally near."""
        return np.maximum(self.distance, RESOLUTION) / np.maximum(self.usual, RESOLUTION)


# ------------------------------------------------------------------------------------------------- neighbors


def nearest(
    samples: Images, training: Images, *, leave_one_out: bool = False, device: str | torch.device = "cpu"
) -> dict[str, Nearest]:
    """Return the nearest of `training` [T, H, W, 3] for each of `samples` [N, H, W, 3] by both distances of pixels.

    leave_one_out: the samples are the training images, each compared with the others. A pair takes at most 10
    microseconds of a core; memory is 200 MB and 24 kB for each symmetry of a training image.
    """
    assert samples.shape[1:] == training.shape[1:]
    gray = all((images == images[..., :1]).all() for images in (samples, training))
    channels = slice(1) if gray else slice(None)
    queries, small = (_shrink(images[..., channels], device) for images in (samples, training))
    blocks = [_Blocks.of(apply_d4(small, symmetry), device) for symmetry in d4_of(training)]

    def distances(rows: slice, view: int) -> Tensor:
        return _pixel_distances(_Blocks.of(queries[rows], device), blocks[view])

    whole, trimmed = _search(distances, len(samples), len(training), len(blocks), leave_one_out)
    # One image many times over: it is the nearest and the usual one, and only blank images are then no copies of it.
    contrast = np.sqrt(queries.var(axis=(1, 2)).mean(-1))
    return {
        WHOLE: replace(whole, usual=np.where(whole.usual <= RESOLUTION, contrast, whole.usual)),
        TRIMMED: trimmed,
    }


def nearest_features(
    samples: NDArray[np.floating], training: NDArray[np.floating], *, leave_one_out: bool = False
) -> dict[str, Nearest]:
    """Return the nearest training image for each of `samples` [N, D] in `training` [V, T, D], of all its views.

    The distance is the Euclidean one of features scaled to unit length, sqrt(2 - 2 cosine), in 0..2.
    leave_one_out: as in `nearest`.
    """
    unit = torch.nn.functional.normalize
    queries, keys = (unit(torch.from_numpy(np.asarray(part, np.float64)), dim=-1) for part in (samples, training))

    def distances(rows: slice, view: int) -> Tensor:
        return torch.cdist(queries[None, rows], keys[None, view])

    (neighbors,) = _search(distances, len(samples), keys.shape[1], len(keys), leave_one_out)
    return {FEATURES: neighbors}


def _search(
    distances: Callable[[slice, int], Tensor], num_samples: int, num_training: int, num_views: int, leave_one_out: bool
) -> list[Nearest]:
    """Return the nearest by each of M distances; `distances(rows, view)` gives [M, rows, num_training]."""
    assert num_training >= 3, "with fewer there is no usual distance"
    neighbors = max(2, min(NEIGHBORHOOD, num_training // 2))
    parts = []
    for rows in torch.arange(num_samples).split(max(1, 2**15 // num_training)):  # pairs, which bounds the memory
        closest, symmetry = torch.stack(
            [distances(slice(int(rows[0]), int(rows[-1]) + 1), view) for view in range(num_views)]
        ).min(0)
        if leave_one_out:
            closest[:, rows - rows[0], rows] = torch.inf
        top = closest.topk(neighbors, largest=False)
        middle = top.values[..., (neighbors - 1) // 2 : neighbors // 2 + 1].mean(-1)
        first = top.indices[..., :1]
        fields = (top.values[..., 0], first[..., 0], symmetry.gather(-1, first)[..., 0], middle)
        parts.append([field.cpu().numpy() for field in fields])
    joined = [np.concatenate(field, axis=1) for field in zip(*parts, strict=True)]
    return [Nearest(*fields) for fields in zip(*joined, strict=True)]


# ------------------------------------------------------------------------------------------- distances of pixels


class _Blocks(NamedTuple):
    """N images cut into K blocks of P pixels: values [K, N, P * C], their means over the pixels [K, N, C]."""

    values: Tensor
    means: Tensor

    @staticmethod
    def of(images: Values, device: str | torch.device) -> _Blocks:
        """Cut images [N, H, W, C] whose sides are multiples of BLOCKS."""
        count, height, width, channels = images.shape
        tensor = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        blocks = tensor.reshape(count, BLOCKS, height // BLOCKS, BLOCKS, width // BLOCKS, channels)
        blocks = blocks.permute(1, 3, 0, 2, 4, 5).reshape(BLOCKS**2, count, -1, channels)
        return _Blocks(blocks.flatten(2), blocks.mean(2))


def _shrink(images: Images, device: str | torch.device) -> Values:
    """Return images [N, H, W, C] area-averaged to at most 32 pixels a side, float64.

    Sides become the nearest multiple of 8, so that they fall into blocks.
    """
    assert images.dtype == np.uint8
    height, width = images.shape[1:3]
    assert min(height, width) >= BLOCKS, "images are at least 8 pixels a side"
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    target = [BLOCKS * max(1, round(side * scale / BLOCKS)) for side in (height, width)]
    pool = torch.nn.AdaptiveAvgPool2d(target)
    # One at a time: in float64 at full size, a whole set would take eight times its bytes.
    tensors = (torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1).double() for image in images)
    return torch.stack([pool(tensor) for tensor in tensors]).permute(0, 2, 3, 1).cpu().numpy()


def _pixel_distances(samples: _Blocks, training: _Blocks) -> Tensor:
    """Return [2, N, T] in gray levels: RMS over the whole images and over their best blocks, without a common shift."""
    # In float64, because the terms nearly cancel where two blocks are alike; TensorFloat-32 would be worse still.
    squares = torch.cdist(samples.values, training.values).square().float().permute(1, 2, 0)
    num_channels = samples.means.shape[-1]
    num_pixels = samples.values.shape[-1] // num_channels
    for channel in range(num_channels):
        difference = samples.means[:, :, None, channel] - training.means[:, None, :, channel]
        difference = difference.float().permute(1, 2, 0).contiguous()  # [N, T, K]
        # Copied blocks share one shift; as long as they are the majority, the median is theirs.
        shift = difference.median(-1, keepdim=True).values.clamp(-MOST_SHIFT, MOST_SHIFT)
        # The sum of (d - s)^2 over a block's pixels, whose d have this mean, is that of d^2 plus:
        squares = squares + num_pixels * shift * (shift - 2 * difference)
    squares = squares.clamp_min(0) / (num_channels * num_pixels)
    best = squares.topk(BEST_BLOCKS, dim=-1, largest=False, sorted=False).values
    return torch.stack([squares.mean(-1), best.mean(-1)]).double().sqrt()
