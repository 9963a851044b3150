"""Pictures of 16 bits per channel at full precision: of their colors PIL keeps the high byte alone.

A decoded picture carries the bytes of its file (`keep_file`) until its samples are asked for (`deep_samples`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from guided_diffusion.runtime.errors import DataError

Samples = NDArray[np.uint16]
_FILE, _SAMPLES, _STORED = "isdm file", "isdm samples", "isdm orientation"  # keys of PIL's info
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a tag of TIFF


def keep_file(image: Image.Image, content: bytes, raw_mode: str) -> None:
    """Let a picture just loaded, and not yet turned, carry its file if PIL drops bits of it; `raw_mode` is PIL's."""
    if ";16" in raw_mode and not image.mode.startswith("I"):
        image.info |= {_FILE: content, _STORED: _orientation(image)}


def deep_samples(image: Image.Image, source: str) -> Samples | None:
    """Return the samples of a 16-bit picture, uint16 [H, W, 1 to 4], turned as `image` is; None for 8 bits.

    Channels: gray or RGB, then alpha. Raises DataError naming `source` for values that are not 0..65535, and for
    formats other than PNG whose colors have 16 bits.
    """
    if image.mode.startswith("I"):
        gray = np.asarray(image)
        if gray.min() < 0 or gray.max() > 65535:
            found = f"image has values {gray.min()} to {gray.max()}"
            raise DataError.of(source, found, "save it with 8 or 16 bits")
        gray = gray.astype(np.uint16)
        # PIL inverts such files of 8 bits, but not those of 16.
        inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        return (65535 - gray if inverted else gray)[..., None]
    if _FILE in image.info:
        decoded = _decode(image.info.pop(_FILE), image.format or "", source)
        turned = _orientation(image) == 1
        image.info[_SAMPLES] = _turned(decoded, image.info[_STORED]) if turned else decoded
    return image.info.get(_SAMPLES)


def stored_mode(image: Image.Image) -> str:
    """Return PIL's mode, or `LA;16`, `RGB;16` or `RGBA;16` for pictures that it reads with 8 bits."""
    samples = image.info.get(_SAMPLES)
    return image.mode if samples is None else {2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}[samples.shape[2]]


def _decode(content: bytes, file_format: str, source: str) -> Samples:
    import torch
    from torchvision.io import ImageReadMode, decode_image

    remedy = "save it as PNG of 8 or 16 bits"
    if file_format != "PNG":
        raise DataError.of(source, f"is a {file_format} file with 16 bits per color channel, which is not read", remedy)
    try:
        file = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        samples = decode_image(file, ImageReadMode.UNCHANGED).numpy()
    except RuntimeError as error:
        raise DataError.of(source, f"its 16-bit colors cannot be decoded ({error})", remedy) from error
    if samples.dtype != np.uint16:
        raise DataError.of(source, "has 16 bits per color channel, which this torchvision cannot read", remedy)
    return np.ascontiguousarray(samples.transpose(1, 2, 0))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation that a picture still has, 1 if none or if it was turned already."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError):  # damaged metadata of a sound picture
        return 1


def _turned(samples: Samples, orientation: int) -> Samples:
    """Return samples [H, W, C] as `PIL.ImageOps.exif_transpose` turns a picture of an orientation."""
    if orientation in (5, 6, 7, 8):
        samples = samples.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return samples
