"""Images painted in the colors of their classes, and segmenters that read the classes back: answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evaluations.sets import ImageSet

COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))
"""Of classes 0 to 3."""


def paint(labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return images [..., 3] of label maps [...]; black where there is no class."""
    return np.array([*COLORS, (0, 0, 0)], np.uint8)[labels]


def painted(count: int = 3, side: int = 32, num_classes: int = 4) -> ImageSet:
    """Return images with a quadrant of each class."""
    quadrants = np.kron(np.arange(4).reshape(2, 2) % num_classes, np.ones((side // 2, side // 2), int))
    labels = np.stack([np.rot90(quadrants, turn) for turn in range(count)]).astype(np.uint8)
    return ImageSet(paint(labels), labels, tuple(map(str, range(count))), num_classes)


class NearestColor(nn.Module):
    """Logits of the classes whose colors these are, of images in 0..1: 2 c.x - |c|^2 is largest for the nearest c."""

    def __init__(self, colors: tuple[tuple[int, int, int], ...] = COLORS):
        super().__init__()
        table = torch.tensor(colors) / 255
        self.layer = nn.Conv2d(3, len(colors), 1)
        self.layer.weight.data = 2 * table[:, :, None, None]
        self.layer.bias.data = -table.square().sum(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images)


def scripted(path: Path, network: nn.Module) -> Path:
    torch.jit.script(network.eval()).save(path)
    return path


def exported(path: Path, network: nn.Module, example: torch.Tensor) -> Path:
    torch.export.save(torch.export.export(network.eval(), (example,)), path)
    return path
