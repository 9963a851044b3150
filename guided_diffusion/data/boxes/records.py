"""What annotation files say of pictures, in one form whatever their format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.scan.problems import Problem

Corners = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels from the top left corner of a picture."""


@dataclass(frozen=True)
class ObjectBox:
    """An object of a picture."""

    class_id: int
    box: Corners
    entry: str = ""
    """What its file calls it: "annotation 17", "line 5"."""

    @property
    def area(self) -> float:
        """Square pixels."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


@dataclass(frozen=True)
class BoxedImage:
    """A picture and its objects; no objects: there is nothing but its background."""

    path: str
    """Of the file; in what a reader returns, as the annotations name it, relative to the folder of images."""
    objects: tuple[ObjectBox, ...] = ()
    size: Size | None = None
    """Height and width in pixels; None where the annotations do not say it."""
    background: int = 0
    """Class of the picture as a whole."""


@dataclass(frozen=True)
class AnnotationFile:
    """What a reader found in an annotation file."""

    path: str
    form: str
    """The format and what the four numbers of its boxes are, for people."""
    names: tuple[str, ...] = ()
    """Of the classes that `class_id` counts."""
    images: tuple[BoxedImage, ...] = ()
    problems: tuple[Problem, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    """What was passed over, and how often."""
