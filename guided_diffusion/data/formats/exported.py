"""What writers of datasets get: image, mask and origin of each pair, and the classes that the masks count."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.deep_color import Samples, deep_samples, write_deep_png
from guided_diffusion.data.files import open_image, orientation
from guided_diffusion.data.formats.annotated import IGNORED_ID, is_background
from guided_diffusion.data.intensity import over_black
from guided_diffusion.data.modes import UNLABELED
from guided_diffusion.data.visualize import class_palette
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.runtime.files import reporting_os_errors

IGNORED_VALUE = 255
"""Of ignored pixels, in formats of 8 bits."""
TEST_AS_VAL = {"test": "val"}


@dataclass(frozen=True)
class ExportedImage:
    """An image that is copied as it is, or decoded where its file does not say what the mask lies on."""

    path: str
    upright: bool
    """Whether the mask lies on it turned as its EXIF orientation says."""

    @cached_property
    def _stored(self) -> Image.Image:
        return open_image(self.path, upright=False)

    @property
    def is_turned(self) -> bool:
        """Whether it has an EXIF orientation, which some tools apply and others do not."""
        return orientation(self._stored) != 1

    @property
    def suffix(self) -> str:
        """The extension of the copy."""
        return ".png" if self.is_turned else os.path.splitext(self.path)[1].lower()

    def put(self, target: Path) -> None:
        """Write the copy; pixels of a turned one, without the orientation, as PNG."""
        if self.is_turned:
            self.put_png(target)
            return
        with reporting_os_errors(target):
            shutil.copyfile(self.path, target)

    def put_png(self, target: Path, *, channels: int | None = None) -> None:
        """Write the pixels as PNG; a PNG of so many channels is copied. channels: 1 or 3, None: as they are.

        Without a channel for alpha transparent pixels are black, as networks see them.
        """
        image = self._stored
        own = "RGB" if image.mode in ("CMYK", "YCbCr") else image.mode  # PNG has no others of those that are read
        wanted = {None: own, 1: image.mode if image.mode in ("L", "I;16") else "L", 3: "RGB"}[channels]
        flat = channels is not None and image.has_transparency_data and not image.mode.startswith("I")
        with reporting_os_errors(target):
            if image.mode == wanted and not flat and self.path.lower().endswith(".png") and not self.is_turned:
                shutil.copyfile(self.path, target)
                return
            if self.upright and self.is_turned:
                image = open_image(self.path)
            gray = image.mode.startswith("I")
            deep = None if gray else deep_samples(image, self.path)
            colors = 1 if gray else 0 if deep is None else deep.shape[2] - 1 + deep.shape[2] % 2
            if colors and channels not in (None, colors):
                found = "has 16 bits, beside images of another kind"
                raise DataError.of(self.path, found, "convert all images to one kind")
            if deep is not None:
                write_deep_png(target, deep if channels is None else _over_black(deep))
                return
            image = over_black(image) if flat else image.copy()
            image = image if image.mode == wanted else image.convert(wanted)
            image.getexif().clear()
            image.info.pop("exif", None)
            image.save(target, format="PNG")


def _over_black(samples: Samples) -> Samples:
    """Return samples [H, W, 1 to 4] without their alpha, if they have one: black where they are transparent."""
    if samples.shape[2] % 2:
        return samples
    color, alpha = samples[..., :-1].astype(np.uint32), samples[..., -1:].astype(np.uint32)
    return ((color * alpha + 32767) // 65535).astype(np.uint16)


@dataclass(frozen=True, eq=False)
class ExportedPair:
    """A pair that is written."""

    name: str
    """Without extension; every system takes it, and no other pair has it."""
    split: str
    """"train" or "test"."""
    label: NDArray[np.int32]
    """[H, W] in 0..classes - 1, the background 0, IGNORED_ID for pixels of no class."""
    image: ExportedImage | None
    """None: the mask alone."""
    origin: str = "real"
    """Whether it is real, and if not, how it was made."""

    @property
    def synthetic(self) -> bool:
        """Whether pixels of the image, or of a mask alone, were drawn by a model."""
        return self.origin.startswith("synthetic")

    @property
    def size(self) -> Size:
        height, width = self.label.shape
        return height, width

    @property
    def ignored(self) -> int:
        """The number of its pixels that belong to no class."""
        return int((self.label == IGNORED_ID).sum())


@dataclass(frozen=True)
class ExportedClasses:
    """The classes of a dataset that is written, the background first."""

    names: tuple[str, ...]
    has_ignored: bool
    """Whether there are pixels that belong to no class."""

    def color(self, index: int) -> tuple[int, int, int]:
        """Return the color of a class in pictures, black for the background."""
        red, green, blue = class_palette(len(self.names))[index].tolist() if index else (0, 0, 0)
        return red, green, blue


class DatasetWriter:
    """Writes pairs into a folder, one by one; `finish` writes what is about all of them."""

    title: ClassVar[str]
    """What it writes, for people."""
    with_masks_alone: ClassVar[bool] = True
    """Whether masks without images can be written."""
    most_classes: ClassVar[int] = 32767
    """That the format has, the background included."""
    without_class_0: ClassVar[str] = ""
    """What becomes of class 0, the background, in a format that has no class of it."""

    def __init__(self, folder: Path, classes: ExportedClasses, name: str = "dataset"):
        """folder: where the files go. name: what the dataset is called."""
        self.folder, self.classes, self.name = folder, classes, name
        self.counts: Counter[str] = Counter()
        """What was changed or lost, and how often."""

    def add(self, pair: ExportedPair) -> None:
        """Write one pair."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write what is about all pairs."""

    @property
    def lost_class(self) -> str:
        """What is told of class 0 where the format has no class of it, and its name is not that of a background."""
        name = self.classes.names[0]
        if not self.without_class_0 or is_background(name) or name in UNLABELED:
            return ""
        return f"{name!r}, which is class 0 and so {self.without_class_0}"

    def check(self) -> None:
        """Raise ConfigError where the format has no place for so many classes, or would lose one."""
        if len(self.classes.names) > self.most_classes:
            line = f"has at most {self.most_classes} classes, the dataset {len(self.classes.names)}: choose coco"
            raise ConfigError.of_keys(("format", f"format: {self.title} {line}"))
        if self.lost_class and (other := next(filter(is_background, self.classes.names), None)):
            line = f"format: {self.title} would lose {self.lost_class}, but another class is named {other!r}"
            raise ConfigError.of_keys(("format", f"{line}: make that one class 0 in classes.json, or rename it"))

    def place(self, *parts: str) -> Path:
        """Return the path of a file of the dataset, whose folder is made."""
        path = self.folder.joinpath(*parts)
        with reporting_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def put_image(self, pair: ExportedPair, *folder: str) -> str:
        """Copy the image of a pair, if it has one, and return its file name."""
        if pair.image is None:
            return f"{pair.name}.png"
        if pair.image.is_turned:
            self.counts["images with an EXIF orientation, written upright as PNG"] += 1
        name = pair.name + pair.image.suffix
        pair.image.put(self.place(*folder, name))
        return name

    def put_mask(self, label: NDArray[np.int32], *parts: str, palette: Sequence[int] = ()) -> None:
        """Write a label map as PNG of 8 bits, ignored pixels as 255, or of 16 above 255 classes, ignored 65535."""
        deep = len(self.classes.names) > 255
        kind, ignored = (np.uint16, 65535) if deep else (np.uint8, IGNORED_VALUE)
        picture = Image.fromarray(np.where(label == IGNORED_ID, ignored, label).astype(kind))
        if palette and not deep:
            picture.putpalette(palette)
        target = self.place(*parts)
        with reporting_os_errors(target):
            picture.save(target, format="PNG")
