"""The eight flips and quarter turns of a square image: the dihedral group D4."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

SYMMETRIES = (
    "as it is",
    "mirrored left to right",
    "mirrored top to bottom",
    "turned by 180 degrees",
    "mirrored along the main diagonal",
    "turned right by 90 degrees",
    "turned left by 90 degrees",
    "mirrored along the other diagonal",
)
"""The names of the numbers 0..7. The last four keep the size of square images only."""


def apply_d4(images: NDArray[Any], symmetry: int) -> NDArray[Any]:
    """Return images [..., H, W, C] flipped or turned; the last four SYMMETRIES give [..., W, H, C]."""
    assert 0 <= symmetry < len(SYMMETRIES)
    if symmetry & 4:
        images = images.swapaxes(-3, -2)
    if symmetry & 2:
        images = images[..., ::-1, :, :]
    if symmetry & 1:
        images = images[..., ::-1, :]
    return images


def d4_of(images: NDArray[Any]) -> range:
    """Return the numbers of the SYMMETRIES that keep the size of images [N, H, W, C]: 8 of square ones, else 4."""
    return range(len(SYMMETRIES) if images.shape[1] == images.shape[2] else len(SYMMETRIES) // 2)


def dihedral_views(images: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the flips and turns of images [N, H, W, C] that keep their size, in the order of SYMMETRIES."""
    return (apply_d4(images, symmetry) for symmetry in d4_of(images))
