"""Good images of a part and a dataset of its defects, for the tests of `place`: noise, with spots and cracks in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from odd_images import write_png

NAMES = ("background", "plate", "spot", "crack")
BACKGROUND, PLATE, SPOT, CRACK = range(len(NAMES))
SIZE = 40, 56


def noise(size: tuple[int, int], seed: int, channels: int = 1, kind: type = np.uint8) -> NDArray[np.integer]:
    """Return gray noise around a gray level, [H, W, channels]."""
    top = np.iinfo(kind).max
    return np.random.default_rng(seed).integers(top // 3, top // 2, (*size, channels), kind)


def defects(number: int, size: tuple[int, int] = SIZE, host: int = BACKGROUND) -> NDArray[np.uint8]:
    """Return a label map with a spot of 5 px, and in every other one a crack of 2 px that is 9 px long."""
    label = np.full(size, BACKGROUND, np.uint8)
    if host != BACKGROUND:
        label[4:-4, 8:-8] = host
    label[10 + number : 15 + number, 12 + 2 * number : 17 + 2 * number] = SPOT
    if number % 2:
        for step in range(9):
            label[24 + step, 36 + step // 3 : 38 + step // 3] = CRACK
    return label


def write_parts(
    folder: Path, *, channels: int = 1, kind: type = np.uint8, host: int = BACKGROUND, pairs: int = 6
) -> Path:
    """Write a dataset: {train,test}/{images,masks} and classes.json."""
    for split, numbers in (("train", range(pairs)), ("test", range(pairs, pairs + 3))):
        for number in numbers:
            label, image = defects(number % 6, host=host), noise(SIZE, number, channels, kind)
            image[label == PLATE] += image.dtype.type(20)
            image[label >= SPOT] = np.iinfo(kind).max - 5
            write_png(folder / split / "images" / f"part_{number}.png", image)
            write_png(folder / split / "masks" / f"part_{number}.png", label)
    (folder / "classes.json").write_text(json.dumps({str(index): name for index, name in enumerate(NAMES)}))
    return folder


def write_good(
    folder: Path,
    sizes: Mapping[str, tuple[int, int]],
    *,
    channels: int = 1,
    kind: type = np.uint8,
    masks: bool = False,
) -> Path:
    """Write good images of (height, width), in images/ and masks/ where they have `masks`, of a plate on a table."""
    for number, (name, size) in enumerate(sizes.items()):
        write_png(folder / ("images" if masks else "") / f"{name}.png", noise(size, 100 + number, channels, kind))
        if masks:
            label = np.full(size, BACKGROUND, np.uint8)
            label[4:-4, 8:-8] = PLATE
            write_png(folder / "masks" / f"{name}.png", label)
    return folder
