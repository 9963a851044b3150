"""Annotated areas painted into one label map; what covers what, and what is lost, is counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.formats.annotated import (
    IGNORED,
    IGNORED_ID,
    Loss,
    LossKind,
    Picture,
    is_background,
)
from guided_diffusion.data.formats.options import Crowds
from guided_diffusion.runtime.errors import DataError


@dataclass(frozen=True)
class ClassIds:
    """Which class of the masks a class of the source becomes."""

    ids: Mapping[str, int]
    ignored: int
    """The null id, of pixels that belong to no class."""
    crowds: Crowds = "keep"

    def of(self, name: str) -> int | None:
        """Return the id of a class of the source, None for one that is not chosen."""
        if name == IGNORED:
            return self.ignored
        return self.ids.get(name, 0 if is_background(name) else None)


@dataclass(frozen=True, eq=False)
class PaintedMask:
    """A label map [H, W] of class ids, and how it came about."""

    label: NDArray[np.int32]
    losses: tuple[Loss, ...]
    shapes: int
    """Areas that were painted."""
    covering: int = 0
    """Areas that cover pixels of earlier ones."""
    covered_pixels: int = 0


def paint(picture: Picture, sizes: Sequence[Size], classes: ClassIds, names: tuple[str, ...]) -> PaintedMask:
    """Return the mask of a picture. names: those that its label map counts.

    sizes: of the image, upright and as stored; where the annotations do not tell, the first one counts. DataError where
    an area is not one, or the size is another one.
    """
    if picture.labels is not None:
        return _translated(picture, sizes, classes, names)
    size = sizes[0] if picture.size is None else picture.size
    if size not in sizes:
        found = f"has image {picture.name!r} as {size[1]}x{size[0]} pixels, but it has {sizes[0][1]}x{sizes[0][0]}"
        raise DataError.of(picture.file, found, "give the images that were annotated")
    label = np.zeros(size, np.int32)
    owner = np.full(size, -1, np.int32)
    losses: list[Loss] = []
    painted: list[int] = []
    covering = covered = 0
    # Ignored crowds first: they are of no class where nothing else is.
    last = classes.crowds == "ignore"
    order = sorted(range(len(picture.shapes)), key=lambda index: last and not picture.shapes[index].crowd)
    for index in order:
        shape = picture.shapes[index]

        def lose(kind: LossKind, entry: str = shape.entry) -> None:
            losses.append(Loss(kind, picture.file, entry))

        class_id = classes.of(shape.name)
        if class_id is None:
            lose(LossKind.UNKNOWN_CLASS, f"{shape.entry}, class {shape.name!r}")
        elif shape.crowd and class_id != classes.ignored and classes.crowds != "keep":
            lose(LossKind.CROWD)
            class_id = classes.ignored if classes.crowds == "ignore" else None
        if class_id is None:
            continue
        try:
            found = shape.region.paint(size)
        except ValueError as error:
            raise DataError.of(f"{picture.file}: {shape.entry}", str(error), "correct it, or take it out") from error
        if found.outside or not found.bits.any():
            lose(LossKind.OUTSIDE if found.outside else LossKind.TINY)
            continue
        if found.cut:
            lose(LossKind.CUT)
        place = slice(found.top, found.top + found.bits.shape[0]), slice(found.left, found.left + found.bits.shape[1])
        before = int((owner[place][found.bits] >= 0).sum())
        covering, covered = covering + bool(before), covered + before
        label[place][found.bits] = class_id
        owner[place][found.bits] = index
        painted.append(index)
    visible = set(np.unique(owner).tolist()) if covered else set(painted)
    losses += [Loss(LossKind.HIDDEN, picture.file, picture.shapes[i].entry) for i in painted if i not in visible]
    return PaintedMask(label, tuple(losses), len(painted), covering, covered)


def _translated(picture: Picture, sizes: Sequence[Size], classes: ClassIds, names: tuple[str, ...]) -> PaintedMask:
    assert picture.labels is not None
    source = picture.labels()
    if source.shape not in sizes:
        found = f"{source.shape[1]}x{source.shape[0]} pixels, but its image has {sizes[0][1]}x{sizes[0][0]}"
        raise DataError.of(picture.file, found, "scale or crop one to the other's size (masks by nearest neighbor)")
    table = [classes.of(name) for name in names]
    present = [index for index in np.unique(source).tolist() if index != IGNORED_ID]
    losses = [
        Loss(LossKind.UNKNOWN_CLASS, picture.file, f"class {names[index]!r}")
        for index in present
        if table[index] is None
    ]
    lookup = np.array([*(class_id or 0 for class_id in table), classes.ignored], np.int32)
    return PaintedMask(lookup[source], tuple(losses), sum(bool(table[index]) for index in present))
