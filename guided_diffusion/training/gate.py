"""What comes through an autoencoder: the gate between its training and that of the diffusion model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

KEPT = 0.5
"""Least IoU of a class in an image, and least share of its contrast, with which the image keeps it."""
RING = 3
"""Pixels around a part of a class that its contrast is measured against."""
_LEAST_CONTRAST = 0.05  # of images in [-1, 1]: what differs less from its surroundings has nothing to lose


@dataclass(frozen=True)
class Gate:
    """What was measured of an autoencoder, by class name; classes that the measured images lack are left out.

    iou: of decoded masks, {} for images alone. kept: share of the images of a class that keep it: with an IoU
    of at least half in the image or, for images alone, at least half of its contrast. psnr: dB, None for masks alone.
    """

    iou: dict[str, float]
    kept: dict[str, float]
    psnr: float | None
    images: int

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the classes, 1 for images alone."""
        return sum(self.iou.values()) / len(self.iou) if self.iou else 1.0

    def failed(self, least: float) -> list[str]:
        """Return the classes, worst first, because of which `least` (0 to 1) is missed; [] where it is reached."""
        lost = {name for name, share in self.kept.items() if share < least}
        if self.mean_iou < least:
            low = {name for name, value in self.iou.items() if value < least}
            lost |= low & self.kept.keys() or low  # the background is named where nothing else is wrong
        return sorted(lost, key=lambda name: (min(self.iou.get(name, 1.0), self.kept.get(name, 1.0)), name))

    def of_class(self, name: str) -> str:
        """Return what is measured of a class in words."""
        parts = [f"IoU {self.iou[name]:.3f}"] if name in self.iou else []
        parts += [f"kept in {self.kept[name]:.0%} of its images"] if name in self.kept else []
        return f"{name} ({', '.join(parts)})"

    def line(self) -> str:
        """Return everything measured in one line."""
        parts = [f"mIoU of decoded masks {self.mean_iou:.4f}"] if self.iou else []
        parts += [f"PSNR {self.psnr:.1f} dB"] if self.psnr is not None else []
        parts += [self.of_class(name) for name in dict.fromkeys([*self.iou, *self.kept])]
        return f"autoencoder, {self.images} images: " + ", ".join(parts)

    def to_state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {"iou": self.iou, "kept": self.kept, "psnr": self.psnr, "images": self.images}


class GateCounts:
    """Counts of what comes through, image by image; null pixels do not count."""

    def __init__(self, names: Sequence[str], background: int):
        self._names, self._background = names, background
        self._confusion = torch.zeros(3, len(names), dtype=torch.int64)  # in both, in the true mask, in the decoded one
        self._kept = torch.zeros(2, len(names), dtype=torch.int64)  # images that keep a class, and that have it
        self._error, self._values, self._images = 0.0, 0, 0

    def add(self, label: Tensor, image: Tensor | None, decoded: Tensor | None, made: Tensor | None) -> None:
        """Count label maps [N, H, W], the masks they were decoded to (None for images alone), and images likewise."""
        self._images += len(label)
        if image is not None and made is not None:
            self._error += float((image - made.clamp(-1, 1)).square().cpu().double().sum())
            self._values += image.numel()
        for index in range(len(self._names)):
            true = label == index
            if decoded is not None:
                found = (decoded == index) & (label < len(self._names))
                both = true & found
                self._confusion[:, index] += torch.stack([each.sum() for each in (both, true, found)]).cpu()
                kept = both.flatten(1).sum(1) >= KEPT * (true | found).flatten(1).sum(1)
                has = true.flatten(1).any(1)
            elif index == self._background:
                continue
            else:
                kept, has = contrast_kept(image, made, true)
            self._kept[:, index] += torch.stack([(kept & has).sum(), has.sum()]).cpu()

    def gate(self) -> Gate:
        """Return what was measured."""
        both, true, found = self._confusion.tolist()
        iou = {name: both[i] / (true[i] + found[i] - both[i]) for i, name in enumerate(self._names) if true[i]}
        kept, has = self._kept.tolist()
        shares = {name: kept[i] / has[i] for i, name in enumerate(self._names) if has[i] and i != self._background}
        psnr = None
        if self._values:  # 2 is the range of the values
            psnr = 10 * math.log10(4 * self._values / max(self._error, 1e-12))
        return Gate(iou, shares, psnr, self._images)


def contrast_kept(image: Tensor, made: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return of N images which keep the contrast of a region in `made`, and which have one to keep, [N] booleans each.

    image, made: [N, C, H, W]. mask: [N, H, W] booleans. The contrast is the difference of the mean color in the region
    and in the ring around it; it is kept where its part along the true one is at least half as long.
    """
    wide = F.max_pool2d(mask[:, None].float(), 2 * RING + 1, stride=1, padding=RING)[:, 0].bool()
    ring = wide & ~mask
    there = mask.flatten(1).any(1) & ring.flatten(1).any(1)
    true, found = (_contrast(each, mask, ring) for each in (image, made))
    length = true.square().sum(1)
    kept = (true * found).sum(1) >= KEPT * length
    return kept, there & (length >= _LEAST_CONTRAST**2)


def _contrast(image: Tensor, mask: Tensor, ring: Tensor) -> Tensor:
    """Return the difference of mean colors, [N, C]."""
    inside, around = (
        (image * part[:, None]).flatten(2).sum(2) / part.flatten(1).sum(1).clamp(min=1)[:, None]
        for part in (mask, ring)
    )
    return inside - around
