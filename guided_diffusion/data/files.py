"""Listing folders and opening pictures, through blobfile."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import blobfile as bf
from PIL import Image, ImageOps

from guided_diffusion.runtime.errors import DataError

# What PIL raises for files that are not the picture they claim to be.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)

_LOW_DEPTH = {"L;2": 85, "L;4": 17}  # PIL stretches gray of 2 and 4 bits to 0..255 by these factors
_DEEP_COLOR = ("RGB;16B", "RGBA;16B", "LA;16B")  # PIL keeps only the high byte of these


def list_files(folder: str | Path) -> list[tuple[str, str]]:
    """Return (path relative to `folder` with forward slashes, full path) of all files below it, sorted.

    Hidden files and folders (leading dot: `.DS_Store`, `._a.png`, `.ipynb_checkpoints`) are left out.
    Raises DataError if the folder cannot be listed.
    """
    found: list[tuple[str, str]] = []

    def visit(path: str, prefix: str) -> None:
        for entry in bf.scandir(path):
            if entry.name.startswith("."):
                continue
            if entry.is_dir:
                visit(entry.path, f"{prefix}{entry.name}/")
            else:
                found.append((prefix + entry.name, entry.path))

    try:
        visit(str(folder), "")
    except OSError as error:
        raise DataError.of(folder, f"cannot be listed ({error})", "repair or remove what it names") from error
    return sorted(found)


def read_bytes(path: str | Path) -> bytes:
    """Return the bytes of a file; DataError if it is missing, empty or cannot be read."""
    try:
        with bf.BlobFile(str(path), "rb") as file:
            content = file.read()
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError.of(path, f"cannot be read ({reason})", "check that it exists and its permissions") from error
    if not content:
        raise DataError.of(path, "the file is empty (0 bytes)", "copy it again or remove the pair")
    return content


def open_image(path: str | Path, content: bytes | None = None) -> Image.Image:
    """Return the decoded picture, turned upright as its EXIF orientation says; `content` where it is read already.

    Raises DataError if the file is missing, empty, truncated, or no picture.
    """
    return _load(path, content)[0]


def open_mask(path: str | Path, content: bytes | None = None) -> Image.Image:
    """Return the decoded label picture with its sample values as they are stored in the file (or in `content`).

    PIL stretches gray PNGs of 2 and 4 bits to 0..255; this is undone. Colors of 16 bits lose their low byte in PIL
    and are refused with a DataError, as are JPEGs, whose compression changes labels, and what `open_image` refuses.
    """
    image, raw_mode = _load(path, content)
    if image.format == "JPEG":
        raise DataError.of(
            path,
            "mask is a JPEG, whatever its name says, and its compression has changed labels at edges",
            "export the masks anew as PNG",
        )
    if raw_mode in _DEEP_COLOR:
        raise DataError.of(
            path, "mask has 16 bits per color channel", "save it as 8-bit RGB, palette or 16-bit gray PNG"
        )
    if raw_mode in _LOW_DEPTH:
        factor = _LOW_DEPTH[raw_mode]
        return image.point([value // factor for value in range(256)])
    return image


def _load(path: str | Path, content: bytes | None) -> tuple[Image.Image, str]:
    """Decode a picture; also return how its samples were stored, in PIL's raw mode names."""
    if content is None:
        content = read_bytes(path)
    try:
        image = Image.open(io.BytesIO(content))
        raw_mode = _raw_mode(image)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except Image.DecompressionBombError as error:
        raise DataError.of(path, str(error), "scale the picture down") from error
    except _BROKEN as error:
        reason = "not a picture that can be decoded" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise DataError.of(
            path, f"unreadable or truncated ({reason})", "replace the file or remove the pair"
        ) from error
    return image, raw_mode


def _raw_mode(image: Image.Image) -> str:
    """Return PIL's raw mode of a picture that is not yet loaded, "" where its format has none."""
    if not image.tile:
        return ""
    arguments = image.tile[0][3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""
