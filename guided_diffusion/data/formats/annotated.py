"""What readers return, in one form whatever the format, and what is lost on the way to masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.formats.regions import Region
from guided_diffusion.data.formats.source_files import SourceFiles

BACKGROUND, IGNORED = "background", "__ignore__"
_BACKGROUNDS = (BACKGROUND, "_background_", "__background__")
IGNORED_ID = -1
"""In label maps: a pixel that belongs to no class."""


def is_background(name: str) -> bool:
    """Return whether a class is what stands behind all others, by its name."""
    return name.lower() in _BACKGROUNDS


class LossKind(Enum):
    """Why something of the source is not in the masks; the value is printed after the number."""

    CROWD = "crowd regions (iscrowd 1)"
    UNKNOWN_CLASS = "areas of classes that are not in classes"
    MORE_LABELS = "further labels of areas that have several, of which the first one counts"
    BOX = "boxes without an outline"
    NO_AREA = "points, lines and tags, which have no area"
    OTHER_SHAPE = "shapes of a kind that is not read, such as cuboids"
    FEW_CORNERS = "outlines of fewer than three corners"
    TINY = "areas that cover no pixel"
    OUTSIDE = "areas outside their image"
    CUT = "areas cut at the border of their image"
    HIDDEN = "areas that later ones cover whole"
    REJECTED = "annotations that another one of the image stands for, or that were canceled"
    UNLISTED = "images that no annotation names, left out"
    NO_IMAGE = "texts of outlines that no image has the name of"
    NOT_ANNOTATED = "images not annotated yet, left out"
    NO_MASK = "annotated images without a mask in this export, left out"


@dataclass(frozen=True)
class Loss:
    """One thing that is lost: in which file, and what the file calls it."""

    kind: LossKind
    file: str
    entry: str
    count: int = 1


@dataclass(frozen=True, eq=False)
class Shape:
    """An annotated area; later ones cover earlier ones."""

    name: str
    """Of its class, as the source has it."""
    region: Region
    entry: str
    """What its file calls it: "annotation 17", "line 5"."""
    crowd: bool = False


@dataclass(frozen=True, eq=False)
class Picture:
    """An image and what is annotated in it: shapes, or a whole label map."""

    name: str
    """Relative to the source, with forward slashes."""
    path: str
    shapes: tuple[Shape, ...] = ()
    labels: Callable[[], NDArray[np.int32]] | None = None
    """Reads [H, W], indices into the names of the source, IGNORED_ID for pixels of no class; None: shapes."""
    size: Size | None = None
    """Height and width as the annotations have them; None where they do not say it."""
    split: str = ""
    """"train", "val", "test", or "" where the source does not say it."""
    file: str = ""
    """Where its annotations stand."""
    content: bytes | None = None
    """Of the image, where it is part of the annotations."""


@dataclass(frozen=True, eq=False)
class Annotated:
    """A whole source."""

    form: str
    """Its format, for people."""
    names: tuple[str, ...]
    """Of the classes it declares, or uses."""
    pictures: tuple[Picture, ...]
    losses: tuple[Loss, ...] = ()
    notes: tuple[str, ...] = ()
    complete: bool = False
    """Whether every pixel is of one of its classes, so that none is added as the background."""

    def class_names(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the classes of the masks, in order. classes: chosen by the user, () for all."""
        if self.complete and not classes and not any(is_background(name) for name in self.names):
            return self.names
        return class_names(self.names, classes)


class Reader(Protocol):
    """Reads all annotations of a source; DataError with a line for each mistake."""

    def __call__(self, files: SourceFiles, classes: Sequence[str]) -> Annotated: ...


def class_names(declared: Iterable[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the classes of the masks, the background first.

    classes: chosen by the user, in their order, with or without a background; () for all that are declared.
    """
    chosen = classes or tuple(declared)
    first = next((name for name in chosen if is_background(name)), BACKGROUND)
    return first, *dict.fromkeys(name for name in chosen if not is_background(name) and name != IGNORED)


def names_by_value(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of mask values in their order: `classes`, after a background where they name none."""
    return tuple(classes) if not classes or any(map(is_background, classes)) else (BACKGROUND, *classes)
