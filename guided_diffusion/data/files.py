"""Listing folders and opening pictures, through blobfile."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import blobfile as bf
from PIL import Image, ImageOps

from guided_diffusion.runtime.errors import DataError

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)  # raised by PIL for corrupted files

_LOW_DEPTH = {"L;2": 85, "L;4": 17}  # PIL stretches gray of 2 and 4 bits to 0..255 by these factors
_DEEP_COLOR = ("RGB;16B", "RGBA;16B", "LA;16B")  # PIL keeps only the high byte of these


def list_files(folder: str | Path) -> list[tuple[str, str]]:
    """Return (path relative to `folder` with forward slashes, full path) of all files below it, sorted.

    Hidden files and folders (leading dot: `.DS_Store`, `._a.png`) are left out. Raises DataError if a folder cannot be
    listed.
    """
    files: list[tuple[str, str]] = []

    def visit(path: str, prefix: str) -> None:
        for entry in bf.scandir(path):
            if entry.name.startswith("."):
                continue
            if entry.is_dir:
                visit(entry.path, f"{prefix}{entry.name}/")
            else:
                files.append((prefix + entry.name, entry.path))

    try:
        visit(str(folder), "")
    except OSError as error:
        raise DataError.of(folder, f"cannot be listed ({error})", "repair or remove the file or folder") from error
    return sorted(files)


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


def open_image(path: str | Path) -> Image.Image:
    """Return the decoded picture, EXIF orientation applied; DataError for a missing, empty or corrupted file."""
    return _load(path)[0]


def open_mask(path: str | Path) -> Image.Image:
    """Return the decoded label picture with the sample values that the file stores (PIL stretches 2 and 4 bits).

    Raises DataError as `open_image` does, and for files whose values are lost: JPEGs, and colors of 16 bits, of which
    PIL reads 8.
    """
    image, raw_mode = _load(path)
    if image.format == "JPEG":
        found = "mask is a JPEG, whatever its name says, and its compression has changed labels at edges"
        raise DataError.of(path, found, "export the masks again as PNG")
    if raw_mode in _DEEP_COLOR:
        remedy = "save it as 8-bit RGB, palette or 16-bit gray PNG"
        raise DataError.of(path, "mask has 16 bits per color channel", remedy)
    if raw_mode in _LOW_DEPTH:
        return image.point([value // _LOW_DEPTH[raw_mode] for value in range(256)])
    return image


def _load(path: str | Path) -> tuple[Image.Image, str]:
    """Return the decoded picture and PIL's raw mode of the file, "" where the format has none."""
    content = read_bytes(path)
    try:
        image = Image.open(io.BytesIO(content))
        raw_mode = _raw_mode(image)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except Image.DecompressionBombError as error:
        raise DataError.of(path, str(error), "scale the picture down") from error
    except _BROKEN as error:
        reason = "not a known picture format" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        found = f"unreadable or truncated ({reason})"
        raise DataError.of(path, found, "replace the file or remove the pair") from error
    return image, raw_mode


def _raw_mode(image: Image.Image) -> str:
    """Return how a picture that is not yet loaded stores its samples."""
    arguments = image.tile[0][3] if image.tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""
