"""Listing folders and opening pictures, through blobfile."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import blobfile as bf
import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, TiffImagePlugin

from guided_diffusion.data.deep_color import keep_file
from guided_diffusion.runtime.errors import DataError

# Without these a cloud path that no network leads to is tried for ever.
bf.configure(retry_limit=2, connect_timeout=3, read_timeout=20, log_callback=lambda _: None)

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What PIL raises for the header of a file that is damaged, too large or not on this machine."""
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)  # raised by PIL for corrupted files

_LOW_DEPTH = {"L;2": 85, "L;4": 17}  # PIL stretches gray of 2 and 4 bits to 0..255 by these factors
_NUMPY = b"\x93NUMPY"
_PNG = b"\x89PNG\r\n\x1a\n"
_PAGES = "isdm pages"  # key of PIL's info
_SUBFILE, _REDUCED, _OF_ALPHA = 254, 1, 4  # a tag of TIFF, and its bits
_LOSSLESS = ("PNG", "BMP", "DIB", "GIF", "PPM", "TGA", "PCX", "SGI", "SUN", "ICO", "QOI")
_ANIMATED = ("GIF", "PNG", "WEBP")
_DEEP_COLOR = ("RGB;16B", "RGBA;16B", "LA;16B")  # PIL keeps only the high byte of these


# What network storage, archives and file managers add beside the files of their users.
_FOREIGN_FOLDERS = ("@eadir", "__macosx", "#recycle", "$recycle.bin", "lost+found")


@contextmanager
def _reading(path: str | Path, remedy: str) -> Iterator[None]:
    """Turn what keeps the block from reading `path` into a DataError that names it."""
    try:
        yield
    except OSError as error:
        raise DataError.of(path, f"cannot be read ({error.strerror or error})", remedy) from error
    except bf.Error as error:
        reason = "no answer" if isinstance(error, bf.RequestFailure | bf.DeadlineExceeded) else str(error)
        check = "check the address, the network and your credentials, or copy the files to a local folder"
        raise DataError.of(path, f"cannot be read ({reason})", check) from error


def is_folder(path: str | Path) -> bool:
    """Return whether there is a folder at a local or cloud path; DataError where the cloud does not answer."""
    with _reading(path, "check its permissions"):
        return bf.isdir(str(path))


def exists(path: str | Path) -> bool:
    """Return whether there is a file or folder at a local or cloud path; DataError where the cloud does not answer."""
    with _reading(path, "check its permissions"):
        return bf.exists(str(path))


def list_files(folder: str | Path) -> list[tuple[str, str]]:
    """Return (path relative to `folder` with forward slashes, full path) of all files below it, sorted.

    Hidden files and folders (leading dot: `.DS_Store`, `._a.png`, `.ipynb_checkpoints`) and those that network storage
    adds (`@eaDir`) are left out. Raises DataError if the folder cannot be listed, or is inside itself by a link.
    """
    files: list[tuple[str, str]] = []

    def visit(path: str, prefix: str, above: tuple[str, ...]) -> None:
        for entry in bf.scandir(path):
            if entry.name.startswith(".") or entry.name.lower() in _FOREIGN_FOLDERS:
                continue
            if not entry.is_dir:
                files.append((prefix + entry.name, entry.path))
                continue
            real = os.path.realpath(entry.path)
            if real in above:
                raise DataError.of(entry.path, f"is a link to {real}, which it lies in", "remove the link")
            visit(entry.path, f"{prefix}{entry.name}/", (*above, real))

    try:
        visit(str(folder), "", (os.path.realpath(folder),))
    except OSError as error:
        raise DataError.of(folder, f"cannot be listed ({error})", "repair or remove what it names") from error
    except bf.Error as error:
        raise DataError.of(folder, f"cannot be listed ({error})", "check the address and the network") from error
    return sorted(files)


def read_bytes(path: str | Path, *, removed: str = "it") -> bytes:
    """Return the bytes of a file; DataError if it is missing, empty, no regular file, or cannot be read.

    removed: what the error advises to remove where the file cannot be mended ("the pair").
    """
    with _reading(path, "check that it exists and its permissions"):
        # A pipe or device would be read for ever.
        if os.path.lexists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError.of(path, "is a folder, pipe or device, not a file", "remove it")
        with bf.BlobFile(str(path), "rb") as file:
            content = file.read()
    if not content:
        raise DataError.of(path, "the file is empty (0 bytes)", f"copy it again or remove {removed}")
    return content


def open_image(
    path: str | Path, content: bytes | None = None, *, upright: bool = True, removed: str = "it"
) -> Image.Image:
    """Return the decoded picture; DataError for a missing, empty or corrupted file.

    content: of the file, where it is read already. upright: turn it as its EXIF orientation says. removed: as above.
    """
    return _load(path, content, upright, removed)[0]


def open_mask(
    path: str | Path, content: bytes | None = None, *, upright: bool = True, removed: str = "it"
) -> Image.Image:
    """Return the decoded label picture with the sample values that the file stores (PIL stretches 2 and 4 bits).

    Arrays of NumPy are pictures, too. Raises DataError as `open_image` does, and for files whose values are lost: lossy
    formats, and colors of 16 bits, of which PIL reads 8.
    """
    content = read_bytes(path, removed=removed) if content is None else content
    if content.startswith(_NUMPY):
        return _label_array(path, content)
    image, raw_mode = _load(path, content, upright, removed)
    if not _is_lossless(image):
        found = f"mask is a {image.format} file, whatever its name says: lossy compression has changed labels at edges"
        raise DataError.of(path, found, "export the masks anew as PNG from their source")
    if raw_mode in _DEEP_COLOR:
        remedy = "save it as 8-bit RGB, palette or 16-bit gray PNG"
        raise DataError.of(path, "mask has 16 bits per color channel", remedy)
    if raw_mode in _LOW_DEPTH:
        return image.point([value // _LOW_DEPTH[raw_mode] for value in range(256)])
    return image


def check_sizes(path: str, size: Sequence[int], other_path: str, other_size: Sequence[int]) -> None:
    """Raise DataError if two pictures of one pair differ in size (height, width)."""
    if tuple(size) != tuple(other_size):
        found = f"{size[1]}x{size[0]} pixels, but {other_path} has {other_size[1]}x{other_size[0]}"
        if tuple(size) == tuple(other_size)[::-1]:
            found += " (sides exchanged: is one of them stored turned, and its EXIF orientation missing or ignored?)"
        raise DataError.of(path, found, "scale or crop one to the other's size (masks by nearest neighbor)")


def _label_array(path: str | Path, content: bytes) -> Image.Image:
    """Return the labels of a .npy file, [H, W] integers of 0..65535, as a picture; nothing is ever unpickled."""
    remedy = "save integers [height, width] with numpy.save"
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError.of(path, f"cannot be read as an array ({error})", remedy) from error
    if array.ndim != 2 or array.dtype.kind not in "iub" or not array.size:
        raise DataError.of(path, f"an array of {array.dtype}, {list(array.shape)}, not a label map", remedy)
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 65535:
        raise DataError.of(path, f"labels from {low} to {high}", "save classes as 0..65535")
    return Image.fromarray(array.astype(np.uint8 if high < 256 else np.uint16))


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a picture, 1 (as stored) to 8; of one that is only opened, by its header."""
    try:
        if isinstance(image, PngImagePlugin.PngImageFile) and image.tile and not _may_have_tag(image):
            return 1
        tag = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _BROKEN:  # damaged metadata of a sound picture
        return 1
    return tag if tag in range(1, 9) else 1


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height as the file of a picture has them; of TIFFs just opened, PIL tells those once turned."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
    return image.size


def _may_have_tag(image: PngImagePlugin.PngImageFile) -> bool:
    """Return whether a PNG has metadata in any place; PIL decodes it to look for those behind the pixels."""
    file = image.fp
    if file is None:
        return True
    position, may = file.tell(), False
    file.seek(len(_PNG))
    while not may and len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        may = name in (b"eXIf", b"iTXt", b"zTXt", b"tEXt")
        file.seek(length + 4, os.SEEK_CUR)
    file.seek(position)
    return may


def turn_upright(image: Image.Image) -> None:
    """Turn a picture as its EXIF orientation says, in place."""
    if orientation(image) != 1:
        ImageOps.exif_transpose(image, in_place=True)


def _load(path: str | Path, content: bytes | None, upright: bool, removed: str) -> tuple[Image.Image, str]:
    """Return the decoded picture and PIL's raw mode of the file, "" where the format has none."""
    content = read_bytes(path, removed=removed) if content is None else content
    try:
        image, raw_mode = _decoded(content)
        if upright:
            turn_upright(image)
    except Image.DecompressionBombError as error:
        raise DataError.of(path, str(error), "scale the picture down") from error
    except _BROKEN as error:
        if named := _foreign_format(content):
            raise DataError.of(path, f"is a {named} file, which is not read", "convert it to PNG or JPEG") from error
        reason = "not a known picture format" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        found = f"unreadable or truncated ({reason})"
        raise DataError.of(path, found, f"replace the file or remove {removed}") from error
    return image, raw_mode


def _decoded(content: bytes) -> tuple[Image.Image, str]:
    """Decode the bytes of a picture; metadata too long for PIL's limits are left out, as they do not matter here."""
    try:
        image = Image.open(io.BytesIO(content))
        raw_mode = _raw_mode(image)
        tag = orientation(image) if isinstance(image, TiffImagePlugin.TiffImageFile) else 1
        image.load()
        if tag != 1:
            _turn_back(image, tag)
        keep_file(image, content, raw_mode)
    except ValueError:
        shorter = _without_text(content)
        if len(shorter) == len(content):
            raise
        return _decoded(shorter)
    if image.format in ("TIFF", "GIF") or getattr(image, "is_animated", False):  # a GIF would seek to tell that
        with suppress(*_BROKEN), Image.open(io.BytesIO(content)) as picture:
            image.info[_PAGES] = full_pages(picture)
    if image.format == "WEBP":
        image.info["lossy"] = b"VP8 " in _riff_chunks(content)
    return image, raw_mode


def _turn_back(image: Image.Image, tag: int) -> None:
    """Turn a TIFF, which PIL has turned as its orientation says, to what its file holds, with its tag."""
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = {6: 8, 8: 6}.get(tag, tag)
    ImageOps.exif_transpose(image, in_place=True)
    image.getexif()[ExifTags.Base.Orientation] = tag


def pages_of(image: Image.Image) -> int:
    """Return how many pages the file of a decoded picture has, of which the first one was read."""
    return image.info.get(_PAGES, 1)


def full_pages(picture: Image.Image) -> int:
    """Return the number of pages or frames of a picture that is only opened; of a TIFF those of the size of the first.

    Thumbnails and masks do not count, nor the further images of a camera's JPEG. The picture is at its last page then.
    """
    if picture.format in _ANIMATED:
        return picture.n_frames
    count, size = 1, picture.size
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        for page in range(1, picture.n_frames):
            picture.seek(page)
            count += picture.size == size and not picture.tag_v2.get(_SUBFILE, 0) & (_REDUCED | _OF_ALPHA)
    return count


def _riff_chunks(content: bytes) -> list[bytes]:
    """Return the names of the chunks of a RIFF file."""
    names, position = [], 12
    while position + 8 <= len(content):
        name, length = struct.unpack_from("<4sI", content, position)
        names.append(name)
        position += 8 + length + length % 2
    return names


def _without_text(content: bytes) -> bytes:
    """Return a PNG without its chunks of text and color profile; other bytes as they are."""
    if not content.startswith(_PNG):
        return content
    kept, position = [_PNG], len(_PNG)
    while position + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        if name not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(content[position : position + 12 + length])
        position += 12 + length
    return b"".join(kept)


def _foreign_format(content: bytes) -> str:
    """Return the name of a picture format that PIL does not read but cameras and tools write, "" for others."""
    if content[4:8] == b"ftyp":
        return "HEIC" if re.search(rb"hei[cfxms]|hev[cx]|mif1|msf1", content[8:32]) else "AVIF or video"
    marks = {b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL", b"%PDF": "PDF", b"DICM": "DICOM"}
    marks |= {
        b"<svg": "SVG",
        b"<?xml": "XML",
        b"<!DOC": "HTML",
        b"\x93NUMPY": "NumPy",
        b"version https://git-lfs": "Git LFS pointer",
    }
    head = content[128:132] if content[128:132] == b"DICM" else content[:32]
    return next((name for mark, name in marks.items() if head.startswith(mark)), "")


def _is_lossless(image: Image.Image) -> bool:
    """Return whether the format of a decoded picture keeps every value."""
    if image.format == "TIFF":
        return image.info.get("compression") not in ("jpeg", "tiff_jpeg", "webp", "jpeg2000")
    if image.format == "WEBP":
        return not image.info.get("lossy", False)
    return image.format in _LOSSLESS


def _raw_mode(image: Image.Image) -> str:
    """Return how a picture that is not yet loaded stores its samples."""
    arguments = image.tile[0][3] if image.tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""
