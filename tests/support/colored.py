"""A dataset whose classes are told by color, and images of the same kind without masks, for the tests of `segment`."""

from __future__ import annotations

import json
from pathlib import Path

import command_line
import numpy as np
from numpy.typing import NDArray
from odd_images import write_png
from parts import lines_of, pixels_of
from tiny import TWO_LEVELS

NAMES = ("background", "red", "green")
COLORS = np.array([(50, 50, 60), (210, 60, 60), (60, 190, 80), (60, 80, 220)])
SIZE = (24, 24)
NETWORK = {
    **TWO_LEVELS, "dataset_mode": "images", "condition": "none", "image_size": 24, "attention_resolutions": [12],
    "max_epochs": 1,
}  # fmt: skip
FAST = {"members": 2, "classifier_steps": 40, "classifier_batch": 96, "folds": 2, "feature_steps": [50]}


def picture(
    number: int, classes: tuple[int, ...] = (1, 2), size: tuple[int, int] = SIZE, noise: float = 12
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return an image [H, W, 3] with a rectangle of each of `classes`, and its label map."""
    draw = np.random.default_rng(number)
    label = np.zeros(size, np.uint8)
    for index, class_id in enumerate(classes):
        left = 1 + index * size[1] // len(classes) + draw.integers(0, 2)
        top = draw.integers(1, size[0] - 12)
        label[top : top + 9, left : left + size[1] // len(classes) - 3] = class_id
    image = COLORS[label] + draw.normal(0, noise, (*size, 3))
    return image.clip(0, 255).astype(np.uint8), label


def write_labeled(folder: Path, count: int = 6, **values) -> Path:
    """Write a dataset: train/{images,masks} and classes.json."""
    for number in range(count):
        image, label = picture(number, **values)
        write_png(folder / "train/images" / f"{number}.png", image)
        write_png(folder / "train/masks" / f"{number}.png", label)
    (folder / "classes.json").write_text(json.dumps({str(index): name for index, name in enumerate(NAMES)}))
    return folder


def write_unlabeled(folder: Path, count: int = 8, first: int = 100, **values) -> dict[str, NDArray[np.uint8]]:
    """Write images, some in a sub-folder; return the label map of each by its stem."""
    labels = {}
    for number in range(first, first + count):
        image, label = picture(number, **values)
        stem = f"{'sub/' if number % 3 == 0 else ''}{number}"
        write_png(folder / f"{stem}.png", image)
        labels[stem] = label
    return labels


def train(images: Path, folder: Path, **values) -> Path:
    """Train a network of images alone for an epoch, and return the folder of the run."""
    assert command_line.run("train", **{**NETWORK, "image_dir": images, "output_dir": folder, **values}) == 0
    return folder


def masks_of(folder: Path) -> dict[str, np.ndarray]:
    """Return the masks of predicted/ by stem."""
    return {line["stem"]: pixels_of(folder / "predicted" / line["mask"]) for line in lines_of(folder / "predicted")}
