"""The bank of shapes: what the masks of a split are taken apart into, for new masks to be made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from guided_diffusion.data.components import Box, find_components
from guided_diffusion.data.counting import value_counts
from guided_diffusion.data.placing.bank import (
    BankPart,
    Borders,
    ClassTally,
    grouped,
    hosts_of,
    labels_around,
)

Kind = tuple[tuple[int, int], ...]
"""The classes of a shape, in order, each with the number of its components."""
Label = NDArray[np.integer]

# Masks are scenes if fewer of all pixels are background or unlabeled, and more of them of classes that would be moved.
# A single mask is filled if fewer of its pixels are of classes that are not moved.
_LITTLE_GROUND, _MUCH_ELSE = 0.1, 0.25


@dataclass(frozen=True, eq=False, kw_only=True)
class Shape(BankPart):
    """What is moved as a whole: a component, or several of different classes that touch each other."""

    kind: Kind
    inner: Label | None = field(default=None, repr=False)
    """[height, width]: the class of each pixel, and of the nearest one outside; None if there is one class."""
    mirrored: tuple[bool, bool] = (False, False)
    """Whether it was turned upside down and left to right, with its image."""

    def flipped(self, down: bool, across: bool) -> Shape:
        """Return the shape in its image, turned upside down and left to right."""
        (height, width), box = self.image_size, self.box
        turn = (slice(None, None, -1 if down else 1), slice(None, None, -1 if across else 1))
        if down:
            box = replace(box, top=height - box.bottom, bottom=height - box.top)
        if across:
            box = replace(box, left=width - box.right, right=width - box.left)
        return replace(
            self,
            box=box,
            borders=self.borders.mirrored(down, across),
            bits=np.packbits(self.mask[turn]),
            inner=None if self.inner is None else self.inner[turn],
            mirrored=(self.mirrored[0] != down, self.mirrored[1] != across),
        )


@dataclass(frozen=True, eq=False)
class SourceMask:
    """A mask that new ones are made from."""

    name: str
    number: int
    size: tuple[int, int]
    shapes: Mapping[Kind, tuple[Shape, ...]]
    classes: frozenset[int]
    """Those that it shows; neither background nor null id."""
    is_plain: bool
    """Whether there is nothing but background beside its shapes, and no ignored pixel."""
    is_filled: bool = False
    """Whether hardly anything is left beside what would be moved: it has no shapes, and bends as a whole."""


@dataclass(frozen=True, eq=False)
class ShapeBank:
    """The shapes of the masks of a split; the same masks in the same order give the same bank."""

    masks: tuple[SourceMask, ...]
    movable: tuple[int, ...]
    """Classes whose shapes are moved; the others stay, or bend with the whole map."""
    is_scene: bool
    """Whether hardly anything is background, so that classes have their places by each other."""
    background: int
    null_id: int
    read: Callable[[int], Label] = field(repr=False)
    """Number of a mask -> its label map [H, W], which is not to be changed."""

    @classmethod
    def build(
        cls,
        names: Sequence[str],
        read: Callable[[int], Label],
        num_classes: int,
        *,
        background: int = 0,
        unlabeled: Sequence[int] = (),
        movable: Sequence[int] | None = None,
        is_scene: bool = False,
        progress: Callable[[range], Sequence[int]] = lambda numbers: numbers,
    ) -> ShapeBank:
        """Take apart the masks `read(number)`, [H, W] in `0..num_classes`; `names` has one for each.

        movable: None: all but the background, unlabeled pixels and the objects that others lie on; nothing in a scene,
        which masks without background are, too, if such classes cover much of them. progress: wraps the numbers.
        """
        if not is_scene:
            found = _movable(read, progress(range(len(names))), num_classes, {background, *unlabeled})
            movable, is_scene = found if movable is None else movable, not found
        movable = movable or ()
        masks = []
        for number in progress(range(len(names))):
            label = read(number)
            pixels = value_counts(label, num_classes + 1)
            present = np.flatnonzero(pixels).tolist()
            # Exchanged with shapes that leave room, what fills masks would all but vanish: it is never new.
            filled = _is_filled(pixels[:num_classes], movable)
            shapes = [] if filled else _shapes_of(names[number], label, movable, background, num_classes)
            masks.append(
                SourceMask(
                    names[number],
                    number,
                    (label.shape[0], label.shape[1]),
                    grouped(shapes, lambda shape: shape.kind),
                    frozenset(present) - {background, num_classes},
                    not filled and {*present} <= {background, *movable},
                    filled,
                )
            )
        return cls(tuple(masks), tuple(movable), is_scene, background, num_classes, read)

    def like(self, kind: Kind, count: int) -> tuple[tuple[Shape, ...], ...]:
        """Return for each mask with `count` shapes of a kind these shapes."""
        return self._like[kind, count]

    def alternative(self, part: BankPart, rng: np.random.Generator) -> Shape:
        """Return a random shape of the same kind, mirrored alike."""
        assert isinstance(part, Shape)
        alike = self._of_kind[part.kind]
        shape = alike[rng.integers(len(alike))]
        return shape.flipped(*part.mirrored) if any(part.mirrored) else shape

    def places(self, part: BankPart) -> Sequence[tuple[float, float]]:
        """Return the centers of the shapes of the same kind at the same borders, mirrored alike."""
        assert isinstance(part, Shape)
        down, across = part.mirrored
        at = part.borders.mirrored(down, across)
        centers = self._places[part.kind, at]
        if not (down or across):
            return centers
        return [(1 - y if down else y, 1 - x if across else x) for y, x in centers]

    @cached_property
    def _shapes(self) -> list[Shape]:
        return [shape for mask in self.masks for shapes in mask.shapes.values() for shape in shapes]

    @cached_property
    def _of_kind(self) -> dict[Kind, tuple[Shape, ...]]:
        return grouped(self._shapes, lambda shape: shape.kind)

    @cached_property
    def _like(self) -> dict[tuple[Kind, int], tuple[tuple[Shape, ...], ...]]:
        groups = [shapes for mask in self.masks for shapes in mask.shapes.values()]
        return grouped(groups, lambda shapes: (shapes[0].kind, len(shapes)))

    @cached_property
    def _places(self) -> dict[tuple[Kind, Borders], tuple[tuple[float, float], ...]]:
        alike = grouped(self._shapes, lambda shape: (shape.kind, shape.borders))
        return {key: tuple(shape.center for shape in shapes) for key, shapes in alike.items()}


def kind_of(label: Label, mask: NDArray[np.bool_]) -> Kind:
    """Return the kind of the pixels of a label map [H, W] that are in a mask."""
    ids = label.astype(np.int32)
    classes = np.unique(ids[mask]).tolist()
    counts = Counter(part.class_id for part in find_components(np.where(mask, ids, -1), classes))
    return tuple(sorted(counts.items()))


def _movable(read: Callable[[int], Label], numbers: Sequence[int], num_classes: int, ground: set[int]) -> list[int]:
    tally, pixels = ClassTally(num_classes), np.zeros(num_classes + 1, np.int64)
    for number in numbers:
        label = read(number)
        tally.add(label)
        pixels += value_counts(label, num_classes + 1)
    movable = list(tally.defects(ground)[0])
    known = pixels[:num_classes]
    little_ground = known[[*ground]].sum() < _LITTLE_GROUND * known.sum()
    return [] if little_ground and known[movable].sum() > _MUCH_ELSE * known.sum() else movable


def _is_filled(pixels: NDArray[np.integer], movable: Sequence[int]) -> bool:
    """Return whether hardly any of the pixels of a mask, counted by class, are of classes that stay."""
    return bool(pixels.sum() - pixels[[*movable]].sum() < _LITTLE_GROUND * pixels.sum())


def _shapes_of(name: str, label: Label, movable: Sequence[int], background: int, null_id: int) -> list[Shape]:
    """Return the shapes of a label map, from top to bottom."""
    numbered, _ = ndimage.label(np.isin(label, movable), np.ones((3, 3)))
    shapes = []
    for number, (down, across) in enumerate(ndimage.find_objects(numbered), start=1):
        box = Box(down.start, across.start, down.stop, across.stop)
        mask, patch = numbered[box.slices] == number, label[box.slices]
        classes = np.unique(patch[mask]).tolist()
        kind: Kind = ((classes[0], 1),) if len(classes) == 1 else kind_of(patch, mask)
        ring = np.bincount(labels_around(label, box, mask).astype(np.int64))
        shapes.append(
            Shape(
                classes[0],
                name,
                number - 1,
                (label.shape[0], label.shape[1]),
                box,
                int(mask.sum()),
                np.packbits(mask),
                Borders.of(box, (label.shape[0], label.shape[1])),
                hosts_of(ring, {*movable, null_id}) or (background,),
                kind=kind,
                inner=None if len(classes) == 1 else _filled(patch, mask),
            )
        )
    return shapes


def _filled(patch: Label, mask: NDArray[np.bool_]) -> Label:
    """Return class ids [H, W] in which the pixels outside a mask have the class of the nearest inside."""
    nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return patch[tuple(nearest)]
