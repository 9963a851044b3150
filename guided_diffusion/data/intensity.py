"""The range of the values of images: from what a file holds to the 8 bits that the model sees."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from guided_diffusion.data.counting import value_counts
from guided_diffusion.data.deep_color import deep_samples
from guided_diffusion.runtime.errors import DataError

ImageRange = Literal["auto", "full", "percentile"] | tuple[int, int]
"""auto and full: 0..255 of 8-bit and 0..65535 of 16-bit files. percentile: each image by its own `PERCENTILES`. A pair:
the values of the file that become black and white."""

PERCENTILES = (0.001, 0.999)
"""Shares of the pixels of an image that are at most black, and below white. Wide enough that a defect of a thousandth
of the image keeps its contrast, narrow enough that single hot pixels do not count."""


def eight_bits(image: Image.Image, image_range: ImageRange, source: str) -> Image.Image:
    """Return a decoded picture with the values that the model sees, 8 bits per channel, alpha (if any) as it is.

    Raises DataError naming `source` for floating point values and those of more than 16 bits.
    """
    if image.mode == "F":
        raise DataError.of(source, "image has floating point values", "save it with 8 or 16 bits per channel")
    deep = deep_samples(image, source) is not None
    if image_range in ("auto", "full") and not deep:
        return image
    color, alpha = color_and_alpha(image, source)
    low, high = limits(color, alpha, image_range)
    values = np.arange(65536 if deep else 256, dtype=np.int64).clip(low, high) - low
    span = max(high - low, 1)
    scaled = ((values * 510 + span) // (2 * span)).astype(np.uint8)[color]
    picture = Image.fromarray(scaled[..., 0] if scaled.shape[2] == 1 else scaled)
    if alpha is not None:
        picture.putalpha(Image.fromarray(alpha))
    return picture


def color_and_alpha(image: Image.Image, source: str) -> tuple[NDArray[np.integer], NDArray[np.uint8] | None]:
    """Return what the file holds: gray or RGB, uint8 or uint16 [H, W, 1 or 3], and alpha, uint8 [H, W], if it has one.

    The pixels of a transparent color (tRNS of PNG) have alpha 0.
    """
    color, alpha = stored_samples(image, source)
    return color, None if alpha is None else to_8_bits(alpha)


def stored_samples(image: Image.Image, source: str) -> tuple[NDArray[np.integer], NDArray[np.integer] | None]:
    """Return what `color_and_alpha` does, with alpha of the type of the colors."""
    deep = deep_samples(image, source)
    if deep is None:
        if image.has_transparency_data:
            array = np.asarray(image.convert("RGBA"))
            return array[..., :3], array[..., 3]
        array = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
        return array if array.ndim == 3 else array[..., None], None
    if deep.shape[2] in (2, 4):
        return deep[..., :-1], deep[..., -1]
    key = image.info.get("transparency")
    if key is None:
        return deep, None
    return deep, np.where((deep == np.array(key)).all(axis=-1), np.uint16(0), np.uint16(65535))


def over_black(image: Image.Image) -> Image.Image:
    """Return a picture of 8 bits with its transparent pixels over black, as RGB; unchanged without any."""
    if not image.has_transparency_data:
        return image
    opaque = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")


def to_8_bits(alpha: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return alpha of 8 or 16 bits as 8 bits."""
    if alpha.dtype == np.uint8:
        return alpha
    return ((alpha.astype(np.uint32) * 2 + 257) // 514).astype(np.uint8)


def limits(color: NDArray[np.integer], alpha: NDArray[np.uint8] | None, image_range: ImageRange) -> tuple[int, int]:
    """Return the values that become black and white in a picture; its transparent pixels do not count."""
    if isinstance(image_range, tuple):
        return image_range
    if image_range != "percentile":
        return 0, 255 if color.dtype == np.uint8 else 65535
    visible = color if alpha is None or not alpha.any() else color[alpha > 0]
    counts = value_counts(visible, int(np.iinfo(color.dtype).max) + 1)
    cumulated = counts.cumsum()
    low, high = (np.searchsorted(cumulated, share * cumulated[-1]) for share in PERCENTILES)
    if low == high:  # almost all is one value, as in a dark field: what is not is the picture
        low, high = np.flatnonzero(counts)[[0, -1]]
    return int(low), int(high)
