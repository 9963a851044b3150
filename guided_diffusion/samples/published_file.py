"""The published file of labeled samples, as of DatasetDDPM and datasetGAN: images, labels and scores in one .npz.

`arr_0` has the images, uint8 [N, H, W, 3], `arr_1` the labels, uint8 [N, H, W], and `arr_2` the scores [N]; files of
datasetGAN have latents third, and the scores fourth. Large arrays are read and written image by image.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import atomic_write, reporting_os_errors
from guided_diffusion.samples.manifest import ManifestLine

NULL_VALUE = 255
"""Of ignored pixels in these files."""
_REMEDY = "give a file of DatasetDDPM, datasetGAN or generate"
_COMMENT = b"written by isdm"  # of the archive: tells these files from others of such names
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of every member, so that equal samples give equal bytes


def file_name(count: int | str, size: tuple[int | str, int | str]) -> str:
    """Return the published name of a file of `count` images of `size` (height, width), or a pattern of such."""
    return f"samples_{count}x{size[0]}x{size[1]}x3.npz"


def write_published(path: Path, folder: Path, lines: Sequence[ManifestLine], encoding: LabelEncoding) -> None:
    """Write the pairs of a folder, all of one size, by `lines` of its manifest; labels as class numbers.

    Raises DataError for more classes than the format has.
    """
    null = encoding.num_classes
    if null > NULL_VALUE:
        found = f"has masks of {null} classes, but the format has labels of 8 bits, and {NULL_VALUE} is ignored"
        raise DataError.of(folder, found, "set write_npz to false")

    def image(name: str) -> NDArray[np.uint8]:
        with Image.open(folder / name) as picture:
            return np.asarray(picture.convert("RGB"))

    def labels(name: str) -> NDArray[np.uint8]:
        with Image.open(folder / name) as picture:
            label = encoding.decode(picture, str(folder / name))
        return np.where(label == null, NULL_VALUE, label).astype(np.uint8)

    height, width = labels(lines[0].mask).shape
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.comment = _COMMENT
        count = len(lines)
        _write_rows(archive, "arr_0", (count, height, width, 3), (image(line.image) for line in lines))
        _write_rows(archive, "arr_1", (count, height, width), (labels(line.mask) for line in lines))
        scores = np.array([line.classified.score for line in lines], np.float64)
        with _member(archive, "arr_2", scores.shape, scores.dtype) as file:
            file.write(scores.tobytes())


def remove_earlier(path: Path, *kept: str) -> list[Path]:
    """Remove what `write_published` wrote beside `path` before, under the names of other counts; return their paths.

    kept: files that stay.
    """
    stay = {Path(each).resolve() for each in (path, *kept)}
    earlier = [each for each in path.parent.glob(file_name("*", ("*", "*"))) if each.resolve() not in stay]
    gone = [each for each in sorted(earlier) if _is_own(each)]
    for each in gone:
        with reporting_os_errors(each):
            each.unlink(missing_ok=True)
    return gone


def _is_own(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == _COMMENT
    except (OSError, zipfile.BadZipFile):
        return False


def _write_rows(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], rows: Iterator[NDArray[np.uint8]]) -> None:
    with _member(archive, name, shape, np.dtype(np.uint8)) as file:
        for row in rows:
            assert row.shape == shape[1:], f"{name}: a row of {row.shape} in an array of {shape}"
            file.write(np.ascontiguousarray(row))


@contextmanager
def _member(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], kind: np.dtype) -> Iterator[IO[bytes]]:
    with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as file:
        npy.write_array_header_1_0(file, {"descr": kind.str, "fortran_order": False, "shape": shape})
        yield file


@dataclass(frozen=True)
class PublishedFile:
    """A published file of samples; the scores [N] are in memory, images and labels are read row by row."""

    path: Path
    size: tuple[int, int]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scores)

    def pairs(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        """Yield each image [H, W, 3] with its label map [H, W]."""
        with ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(self.path))
            members = [stack.enter_context(archive.open(f"{name}.npy")) for name in ("arr_0", "arr_1")]
            try:
                headers = [_header(member) for member in members]
                for _ in range(len(self)):
                    image, label = (_row(*each) for each in zip(members, headers, strict=True))
                    yield image, label
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                raise DataError.of(self.path, f"damaged ({error})", "copy it again") from error

    def largest_label(self, unlike: Sequence[int]) -> int:
        """Return the largest label beside `unlike`, -1 without any."""
        labels = (label[~np.isin(label, unlike)].astype(np.int16) for _, label in self.pairs())
        return max(int(label.max(initial=-1)) for label in labels)


def read_published(path: Path) -> PublishedFile:
    """Open a published file and read its scores; DataError for any other file. Nothing in it is ever unpickled."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = sorted(arrays.files)
            if names not in (["arr_0", "arr_1", "arr_2"], ["arr_0", "arr_1", "arr_2", "arr_3"]):
                raise DataError.of(path, f"has the arrays {', '.join(names) or 'none'}", _REMEDY)
            scores = arrays[names[-1]]
        with zipfile.ZipFile(path) as archive:
            headers = []
            for name in ("arr_0", "arr_1"):
                with archive.open(f"{name}.npy") as file:
                    headers.append(_header(file))
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError.of(path, f"cannot be read as .npz ({error})", _REMEDY) from None
    (images, image_kind), (labels, label_kind) = headers
    count = len(scores) if scores.ndim == 1 and scores.dtype.kind == "f" else -1
    if len(images) != 4 or images[3] != 3 or labels != images[:3] or images[0] != count or count < 1:
        found = f"has images {list(images)}, labels {list(labels)} and scores {list(scores.shape)} {scores.dtype}"
        raise DataError.of(path, found, _REMEDY)
    if image_kind != np.uint8 or label_kind != np.uint8:
        raise DataError.of(path, f"has images of {image_kind} and labels of {label_kind}, not uint8", _REMEDY)
    if not np.isfinite(scores).all():
        raise DataError.of(path, "has scores that are not finite", _REMEDY)
    return PublishedFile(path, (images[1], images[2]), scores.astype(np.float64))


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and type of an array whose file was opened; ValueError for one that is not in C order."""
    readers: dict[tuple[int, int], Callable[..., Any]] = {
        (1, 0): npy.read_array_header_1_0,
        (2, 0): npy.read_array_header_2_0,
    }
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError(f"format {version} of NumPy")
    shape, fortran, kind = readers[version](file)
    if fortran:
        raise ValueError("an array in Fortran order")
    return shape, kind


def _row(file: IO[bytes], header: tuple[tuple[int, ...], np.dtype]) -> NDArray[np.uint8]:
    shape = header[0][1:]
    content = file.read(int(np.prod(shape)))
    return np.frombuffer(content, np.uint8).reshape(shape)
