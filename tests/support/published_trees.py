"""The published layouts, written out here and not taken from the records that are tested, and tiny trees in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (16, 32)

# Image, mask and instance map of a stem.
LAYOUTS = {
    "cityscapes": {
        "train": (
            "leftImg8bit/train/{}_leftImg8bit.png",
            "gtFine/train/{}_gtFine_labelIds.png",
            "gtFine/train/{}_gtFine_instanceIds.png",
        ),
        "test": (
            "leftImg8bit/val/{}_leftImg8bit.png",
            "gtFine/val/{}_gtFine_labelIds.png",
            "gtFine/val/{}_gtFine_instanceIds.png",
        ),
    },
    "ade20k": {
        "train": ("images/training/{}.jpg", "annotations/training/{}.png"),
        "test": ("images/validation/{}.jpg", "annotations/validation/{}.png"),
    },
    "celeba": {
        "train": ("train/images/{}.jpg", "train/labels/{}.png"),
        "test": ("test/images/{}.jpg", "test/labels/{}.png"),
    },
    "coco": {
        "train": ("train_img/{}.jpg", "train_label/{}.png", "train_inst/{}.png"),
        "test": ("val_img/{}.jpg", "val_label/{}.png", "val_inst/{}.png"),
    },
}
STEMS = {
    "cityscapes": (
        "st. gallen/st. gallen_000000_000019",
        "münchen-süd_2/münchen-süd_2_000001_000019",
        "a_leftImg8bit/a_000002_000019",
    ),
    "ade20k": ("ADE_train_00000001", "ADE_train_00000002", "ADE_train_00000010"),
    "celeba": ("0", "1", "10"),
    "coco": ("000000000009", "000000000025", "000000000030"),
}
# File values of the masks that are written, and the classes that they stand for.
VALUES = {
    "cityscapes": {0: 0, 7: 7, 26: 26, 33: 33},
    "ade20k": {0: 150, 1: 0, 13: 12, 150: 149},
    "celeba": {0: 0, 1: 1, 13: 13, 18: 18},
    "coco": {0: 0, 90: 90, 181: 181, 255: 182},
}
PUBLISHED = sorted(LAYOUTS)


def gray(path: Path, array: np.ndarray) -> None:
    """Write an array as a picture, its folders with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def stripes(values: Sequence[int]) -> np.ndarray:
    """Return [H, W] with each of the values in columns of equal width."""
    return np.tile(np.repeat(np.array(list(values)), SIZE[1] // len(values)), (SIZE[0], 1))


def write_tree(root: Path, name: str) -> Path:
    """Write both splits of a published layout: three pairs each, instance ids of 16 bits where Cityscapes has them."""
    rng = np.random.default_rng(0)
    depth = np.uint16 if name == "cityscapes" else np.uint8
    for templates in LAYOUTS[name].values():
        for stem in STEMS[name]:
            files = [root / template.format(stem) for template in templates]
            gray(files[0], rng.integers(0, 256, (*SIZE, 3), np.uint8))
            gray(files[1], stripes(VALUES[name]).astype(np.uint8))
            for path in files[2:]:
                gray(path, stripes([7, 26, 8, 9]).astype(depth))
    return root
