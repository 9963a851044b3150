"""Label maps with defects, and banks of them, for the tests of placing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.data.placing.bank import DefectBank
from guided_diffusion.data.placing.options import PlacingOptions

NAMES = ("background", "object", "spot", "crack", "band")
BACKGROUND, OBJECT, SPOT, CRACK, BAND = range(len(NAMES))
SIZE = 80, 100


def blank(size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.zeros(size, np.uint8)


def disk(label: NDArray[np.uint8], y: float, x: float, radius: float, class_id: int) -> NDArray[np.uint8]:
    """Draw a disk into a label map and return it."""
    rows, columns = np.ogrid[: label.shape[0], : label.shape[1]]
    label[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = class_id
    return label


def crack(label: NDArray[np.uint8], y: int, x: int, length: int) -> NDArray[np.uint8]:
    """Draw a slanted crack of 2 px into a label map and return it."""
    for step in range(length):
        label[y + step, x + step // 3 : x + step // 3 + 2] = CRACK
    return label


def spots() -> list[tuple[str, NDArray[np.uint8]]]:
    """Spots in the left third, one to three a mask, and a crack in every other mask."""
    masks = []
    for number in range(6):
        label = blank()
        for index in range(1 + number % 3):
            disk(label, 12 + 25 * index, 12 + 2 * number, 4 + number % 2, SPOT)
        masks.append((f"mask_{number}", crack(label, 20, 60, 30) if number % 2 else label))
    return masks


def bank_of(*labels: NDArray[np.uint8], **options: object) -> DefectBank:
    """Return the bank of label maps called a, b, c, ..."""
    masks = [(chr(ord("a") + index), label) for index, label in enumerate(labels)]
    return DefectBank.build(masks, NAMES, PlacingOptions(**options))
