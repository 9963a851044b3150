"""Whole images of differing sizes for the tests of training by crops, and the smallest segmenter."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from evaluations.whole_images import WholeImages


def whole_shapes(count: int, *, seed: int = 0, least: int = 20, most: int = 70, good: bool = False) -> WholeImages:
    """Return images with one square of class 1 (bright) or 2 (dark) each on gray noise, or none; 3 classes."""
    rng = np.random.default_rng(seed)
    images, labels = [], []
    for index in range(count):
        height, width = rng.integers(least, most, 2).tolist()
        image = rng.integers(110, 146, (height, width, 1), dtype=np.uint8).repeat(3, axis=2)
        label = np.zeros((height, width), np.uint8)
        if not good:
            side = int(rng.integers(4, 9))
            top, left = int(rng.integers(height - side)), int(rng.integers(width - side))
            place = (slice(top, top + side), slice(left, left + side))
            label[place] = 1 + index % 2
            image[place] = 240 if index % 2 == 0 else 20
        images.append(image)
        labels.append(label)
    names = tuple(f"{'good' if good else 'shape'}{index}" for index in range(count))
    return WholeImages(tuple(images), tuple(labels), names, 3)


class SmallSegmenter(nn.Module):
    """A segmenter of two convolutions with dropout: float32 [N, 3, H, W] -> logits [N, 3, H, W], sides of any size."""

    def __init__(self, seed: int = 0, kernel: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = nn.Conv2d(3, 8, kernel, padding=kernel // 2)
            self.rest = nn.Sequential(nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(8, 3, 1))
        self.encoder.output_stride = 1

    def forward(self, images: Tensor) -> Tensor:
        return self.rest(self.encoder(images))
