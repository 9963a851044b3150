"""A small dataset of large images with small defects, and good images of the same part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (400, 600)
CLASSES = 3
"""Background, spots and cracks that are 2 px wide."""


def brushed(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return gray levels [H, W] of a brushed surface."""
    rows = np.cumsum(rng.normal(0, 2, size[0]))[:, None]
    return 120 + 10 * np.tanh(rows / 10) + rng.normal(0, 4, size)


def write_large_images(
    root: Path, *, train: int = 6, test: int = 3, good: int = 3, size: tuple[int, int] = SIZE
) -> None:
    """Write `<root>/data` with splits of pairs and `<root>/good`, gray images of `size`."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for kind in ("images", "masks"):
            (root / "data" / split / kind).mkdir(parents=True)
        for number in range(count):
            image, mask = brushed(rng, size), np.zeros(size, np.uint8)
            top, left = rng.integers(0, size[0] - 14), rng.integers(0, size[1] - 60)
            mask[top : top + 14, left : left + 11] = 1
            row, column = rng.integers(0, size[0] - 2), rng.integers(0, size[1] - 60)
            mask[row : row + 2, column : column + 50] = 2
            image[mask == 1], image[mask == 2] = 40, 200
            name = f"{split}_{number}.png"
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / "data" / split / "images" / name)
            Image.fromarray(mask).save(root / "data" / split / "masks" / name)
    (root / "good").mkdir()
    for number in range(good):
        pixels = brushed(rng, size).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / "good" / f"good_{number}.png")
