"""Gray pictures of rectangles and ellipses with their masks: of the one the box is the mask, of the other it is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("background", "rectangle", "ellipse")
GRAYS = (40, 130, 220)


def write_solids(folder: Path, count: int = 8, *, size: int = 32, splits: tuple[str, ...] = ("train", "test")) -> Path:
    """Write `count` pairs a split, most with an object in one or both of their halves, and return the folder."""
    for number, split in enumerate(splits):
        rng = np.random.default_rng(number)
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for index in range(count):
            label = solids(rng, size, (index % 3, (index + 1) % 3))
            gray = np.array(GRAYS)[label] + rng.integers(-10, 11, label.shape)
            for kind, pixels in (("images", gray), ("masks", label)):
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / kind / f"{index:02d}.png")
    names = {str(index): name for index, name in enumerate(NAMES)}
    (folder / "classes.json").write_text(json.dumps(names), encoding="utf-8")
    return folder


def solids(rng: np.random.Generator, size: int, classes: tuple[int, int]) -> np.ndarray:
    """Return a label map with an object of each of `classes` (0: none) in its left and its right half."""
    label = np.zeros((size, size), np.int64)
    rows, columns = np.mgrid[:size, :size] + 0.5
    for half, kind in enumerate(classes):
        height, width = rng.uniform(0.5, 0.9) * size, rng.uniform(0.6, 0.9) * size / 2
        y, x = size / 2, (half + 0.5) * size / 2
        down, across = (rows - y) / (height / 2), (columns - x) / (width / 2)
        inside = (abs(down) < 1) & (abs(across) < 1) if kind == 1 else down**2 + across**2 < 1
        label[inside] = np.where(kind, kind, label[inside])
    return label
