"""Pictures of 16 bits per channel at full precision: PIL reads the high byte alone of their colors, and writes none.

A decoded picture carries the bytes of its file (`keep_file`) until its samples are asked for (`deep_samples`).
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from guided_diffusion.runtime.errors import DataError

Samples = NDArray[np.uint16]
_FILE, _SAMPLES, _STORED = "isdm file", "isdm samples", "isdm orientation"  # keys of PIL's info
_LOW_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}
"""Raw mode of a PNG -> the one with which PIL reads its low bytes: those of the other order; both of gray and alpha."""
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a tag of TIFF
_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by the number of channels
_UP = 2  # filter of PNG: each byte less the one above
_ROWS = 64  # that are compressed at a time


def keep_file(image: Image.Image, content: bytes, raw_mode: str) -> None:
    """Let a picture just loaded, and not yet turned, carry its file if PIL drops bits of it; `raw_mode` is PIL's."""
    if ";16" in raw_mode and not image.mode.startswith("I"):
        image.info |= {_FILE: (content, raw_mode), _STORED: _orientation(image)}


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
        content, raw_mode = image.info[_FILE]
        if image.format != "PNG" or raw_mode not in _LOW_BYTES:
            found = f"is a {image.format} file with 16 bits per color channel, which is not read"
            raise DataError.of(source, found, "save it as PNG of 8 or 16 bits")
        image.info[_SAMPLES] = _decode(image, content, raw_mode)
        del image.info[_FILE]
    return image.info.get(_SAMPLES)


def stored_mode(image: Image.Image) -> str:
    """Return PIL's mode, or `LA;16`, `RGB;16` or `RGBA;16` for pictures that it reads with 8 bits."""
    samples = image.info.get(_SAMPLES)
    return image.mode if samples is None else {2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}[samples.shape[2]]


def is_gray(mode: str) -> bool:
    """Return whether pictures of a `stored_mode` have no colors."""
    return mode in ("1", "L", "LA", "LA;16") or mode.startswith("I")


def _decode(image: Image.Image, content: bytes, raw_mode: str) -> Samples:
    """Return the samples of a PNG, whose high bytes are in `image`."""
    second = Image.open(io.BytesIO(content))
    second.tile = [(*tile[:3], _LOW_BYTES[raw_mode]) for tile in second.tile]
    second.load()
    if _orientation(image) != image.info[_STORED]:
        ImageOps.exif_transpose(second, in_place=True)
    low = np.asarray(second).astype(np.uint16)
    if raw_mode == "LA;16B":
        return low[..., 0::2] << 8 | low[..., 1::2]
    return np.asarray(image).astype(np.uint16) << 8 | low


def write_deep_png(path: str | Path, samples: Samples) -> None:
    """Write samples, uint16 [H, W, 1 to 4] as `deep_samples` returns them, as a PNG of 16 bits per channel."""
    height, width, channels = samples.shape
    compressor = zlib.compressobj()
    above = np.zeros((1, 2 * channels * width), np.uint8)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.write(_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _COLOR_TYPES[channels], 0, 0, 0)))
        for start in range(0, height, _ROWS):
            rows = samples[start : start + _ROWS].astype(">u2")
            stored = rows.reshape(len(rows), -1).view(np.uint8)
            filtered = np.diff(stored, axis=0, prepend=above)  # modulo 256
            compressed = compressor.compress(np.pad(filtered, ((0, 0), (1, 0)), constant_values=_UP).tobytes())
            file.write(_chunk(b"IDAT", compressed))
            above = stored[-1:]
        file.write(_chunk(b"IDAT", compressor.flush()))
        file.write(_chunk(b"IEND", b""))


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation that a picture still has, 1 if none or if it was turned already."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError):  # damaged metadata of a sound picture
        return 1
