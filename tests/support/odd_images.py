"""Image files that PIL does not write: PNG of any depth and kind, and TIFF of 16-bit colors."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

_KIND = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> color type of PNG
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""(first row, first column, step of rows, step of columns) of each pass."""


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def write_png(
    path: Path,
    pixels: np.ndarray,
    *,
    key: tuple[int, ...] = (),
    orientation: int = 1,
    interlaced: bool = False,
) -> Path:
    """Write uint8 or uint16 [H, W] or [H, W, 1 to 4]; `key`: the color that is transparent (tRNS)."""
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    height, width, channels = pixels.shape
    depth = 8 * pixels.dtype.itemsize
    passes = [pixels[y::dy, x::dx] for y, x, dy, dx in _ADAM7] if interlaced else [pixels]
    rows = [row for each in passes if each.size for row in each.astype(pixels.dtype.newbyteorder(">"))]
    exif = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)
    parts = [
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, _KIND[channels], 0, 0, interlaced)),
        chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b"",
        chunk(b"eXIf", exif) if orientation != 1 else b"",
        chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        chunk(b"IEND", b""),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def write_tiff(path: Path, pixels: np.ndarray, *, white_is_zero: bool = False) -> Path:
    """Write uint8 or uint16 [H, W] or [H, W, 3]."""
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    bits, photometric = 8 * pixels.dtype.itemsize, 2 if channels == 3 else 1 - white_is_zero
    after = 8 + 2 + 9 * 12 + 4  # header and directory
    sizes = struct.pack("<3H", bits, bits, bits)
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    entries = [
        (256, 4, 1, pixels.shape[1]),
        (257, 4, 1, pixels.shape[0]),
        (258, 3, channels, after if channels == 3 else bits),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, after + 6),
        (277, 3, 1, channels),
        (278, 4, 1, pixels.shape[0]),
        (279, 4, 1, len(data)),
    ]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    path.write_bytes(b"II*\0\x08\0\0\0" + directory + sizes + data)
    return path
