"""Images and label maps as DDPM-seg reads them: resized, and without regions too small to learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PUBLISHED_MIN_REGION = 20


def resize_image(image: Image.Image, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return an image at `size` (height, width), RGB [3, H, W] in -1..1.

    Bilinear and antialiased by Pillow, which rounds to 8 bits: `interpolate` differs by up to 0.9 gray levels.
    """
    resized = image.convert("RGB").resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return (np.asarray(resized, dtype=np.float32).transpose(2, 0, 1) / 255) * 2 - 1


def resize_nearest(label: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.integer]:
    """Return a label map [H, W] at `size`; pixel i is pixel floor(i * old / new), which is not what Pillow takes."""
    rows, columns = (np.arange(new) * old // new for old, new in zip(label.shape, size, strict=True))
    return label[np.ix_(rows, columns)]


def without_small(label: NDArray[np.integer], ignored: int, least: int) -> NDArray[np.integer]:
    """Return a label map in which a class with fewer than `least` pixels is `ignored`; published: 20."""
    values, counts = np.unique(label, return_counts=True)
    return np.where(np.isin(label, values[counts < least]), np.asarray(ignored, label.dtype), label)
