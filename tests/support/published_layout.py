"""The published form of layout networks: names, spectral norms, batch norms and corner-aligned pixels.

Ours has none of these; tests compare the rest with the published numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from recorded import value_of
from torch import Tensor
from torch.nn import functional as F

from guided_diffusion.conditions.layout import EMPTY_BOX, LayoutCondition
from guided_diffusion.models.layout.pasting import CELLS, AxisShares

CLASSES = 184
NAMES = [
    (r"^alpha$", "conditioner.alpha"),
    (r"^label_embedding\.", "conditioner.embedding."),
    (r"^mask_regress\.fc\.", "conditioner.regressor.fc."),
    (r"^mask_regress\.conv([123])\.0\.", r"conditioner.regressor.conv\1."),
    (r"^mask_regress\.conv3\.3\.", "conditioner.regressor.out."),
    (r"\bweight_proj\.", "gamma."),
    (r"\bbias_proj\.", "beta."),
    (r"\bconv_mask\.0\.", "mask_head.conv."),
    (r"\bconv_mask\.1\.", "mask_head.norm."),
    (r"\bconv_mask\.3\.", "mask_head.out."),
]


def our_weights(shapes: Mapping[str, Sequence[int]], own: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Return the recorded weights by our names, divided by their spectral norms, in the shapes of `own`.

    What ours lacks is left out: running statistics, biases before a normalization, the head of the last block.
    """
    found = {}
    for name, shape in shapes.items():
        value, ours = value_of(name, shape), name.removesuffix("_orig").removeprefix(prefix)
        if name.endswith("_orig"):
            value = value / torch.linalg.matrix_norm(value.flatten(1).double(), 2).float()
        for published, replaced in NAMES:
            ours = re.sub(published, replaced, ours)
        if ours in own:
            found[ours] = value.view_as(own[ours])
    return found


def published_layout(arrays: Mapping[str, Tensor], *, size: int = 64) -> LayoutCondition:
    """Return the recorded layout; boxes outside of the image become empty slots. It has no background of ours."""
    box = torch.as_tensor(arrays["boxes"])
    padding = box[..., 0] < 0
    corners = torch.cat([box[..., :2], box[..., :2] + box[..., 2:]], dim=-1)
    return LayoutCondition(
        torch.as_tensor(arrays["objs"]).long().masked_fill(padding, CLASSES),
        torch.where(padding[..., None], torch.tensor(EMPTY_BOX), corners),
        torch.as_tensor(arrays["z"]),
        CLASSES,
        (size, size),
        background=False,
    )


def corner_samples(low: Tensor, high: Tensor, count: int) -> AxisShares:
    """Return what pixels at i / (count - 1) sample: 0 outside of a box, and within half a cell from its border less."""
    pixel = torch.arange(count, dtype=low.dtype) / (count - 1)
    position = (pixel - low[..., None]) / (high - low)[..., None]
    cells = (1 - (CELLS * position[..., None] - 0.5 - torch.arange(CELLS)).abs()).clamp_min(0)
    return AxisShares(cells, ((position >= 0) & (position <= 1)).to(low.dtype))


def published_axis(low: Tensor, high: Tensor, count: int) -> AxisShares:
    """Return the published map of 64 pixels, resized, and its boxes of 128, of which the nearest are taken."""
    cells = corner_samples(low, high, 64).cells.flatten(0, 1).transpose(1, 2)
    cells = F.interpolate(cells, size=count, mode="linear").transpose(1, 2).unflatten(0, low.shape)
    inside = corner_samples(low, high, 128).inside
    return AxisShares(cells, inside[..., torch.arange(count) * 128 // count])


def batch_normalized(x: Tensor, prefix: str, kind: str) -> Tensor:
    """Return x [N, C, H, W] after the published normalization, by `running` or `batch` statistics."""
    mean, variance = (value_of(f"{prefix}batch_norm2d.running_{name}", x.shape[1:2]) for name in ("mean", "var"))
    return F.batch_norm(x, mean, variance, training=kind == "batch", eps=1e-5)
