"""Layouts as the network sees them: the boxes of a picture, placed with it.

Boxes of annotations are moved and cut off as they are. Those of label maps are found in the mask at its own size, cut
to the window there and then placed: so a scratch thinner than a pixel of the model stays one object, and what a crop
leaves of a bent one gets a box that fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from guided_diffusion.conditions.base import Size
from guided_diffusion.conditions.layout import WHOLE_BOX, LayoutCondition, object_styles
from guided_diffusion.data.boxes.from_masks import objects_of
from guided_diffusion.data.boxes.records import BoxedImage
from guided_diffusion.data.components import Box, Component
from guided_diffusion.data.condition_makers import ExampleKey, Placed, read_edge_source
from guided_diffusion.data.mirror import exchanged
from guided_diffusion.data.pairing import GoodImage, Pair
from guided_diffusion.data.transforms import Target
from guided_diffusion.data.windows import point_of, target_in
from guided_diffusion.runtime.seeding import Stream, derive_seed

LEAST_LEFT = 0.1
"""Share of its area that a crop has to leave of an object; with less it is dropped."""
_ENTRIES = ("object_label", "object_box", "object_style")


class PictureObjects(NamedTuple):
    """The objects of a picture at full size."""

    label: Tensor  # [O] int64
    box: Tensor  # [O, 4] float64: x0, y0, x1, y1 in pixels
    size: Size  # of the picture
    background: int  # class of the picture as a whole
    parts: tuple[Component, ...] = ()  # their pixels, where they come from a mask


@dataclass(frozen=True)
class LayoutRules:
    """Which objects of a picture are in its layout."""

    max_objects: int = 16
    min_object_size: float = 0.0
    """A box counts if it has more than this share of the picture."""
    background: bool = True
    """Whether slot 0 is the picture as a whole."""


class PlacedObjects(NamedTuple):
    """What a placement leaves of the objects of a picture, in their order."""

    number: Tensor  # [K] int64: which of the O objects
    label: Tensor  # [K] int64
    box: Tensor  # [K, 4] float32: x0, y0, x1, y1 as shares of width and height
    small: Tensor  # numbers of those left out by min_object_size
    cropped: Tensor  # of which less than LEAST_LEFT is in the window
    beyond: Tensor  # which are more than max_objects


def objects_of_boxes(boxes: BoxedImage, size: Size) -> PictureObjects:
    """Return the annotated objects of a picture."""
    box = torch.tensor([each.box for each in boxes.objects], dtype=torch.float64).reshape(-1, 4)
    label = torch.tensor([each.class_id for each in boxes.objects], dtype=torch.int64)
    return PictureObjects(label, box, size, boxes.background)


def objects_of_mask(
    label: Tensor, classes: Sequence[int], background: int, instances: Tensor | None = None
) -> PictureObjects:
    """Return the connected parts of `classes` in a label map [H, W], or its instances where their ids are given."""
    parts = objects_of(label.numpy(), classes, None if instances is None else instances.numpy())
    boxes = [(part.box.left, part.box.top, part.box.right, part.box.bottom) for part in parts]
    box = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    ids = torch.tensor([part.class_id for part in parts], dtype=torch.int64)
    height, width = label.shape
    return PictureObjects(ids, box, (height, width), background, tuple(parts))


def place_objects(objects: PictureObjects, placement: Placed, rules: LayoutRules) -> PlacedObjects:
    """Return the layout of a placed picture; of more than `max_objects` the largest in the window stay."""
    whole = _area(objects.box)
    large = whole > rules.min_object_size * objects.size[0] * objects.size[1]
    box, left = _cut(objects, placement.shown(objects.size))
    seen = left >= LEAST_LEFT
    number = torch.nonzero(large & seen)[:, 0]
    placed = placement.boxes(box[number], objects.size)
    order = _area(placed).argsort(descending=True, stable=True)
    beyond = number[order[rules.max_objects :].sort().values]
    largest = order[: rules.max_objects].sort().values
    number, placed = number[largest], placed[largest]
    height, width = placement.window
    label = _as_shown(objects.label[number], placement)
    shares = placed / torch.tensor([width, height, width, height], dtype=placed.dtype)
    small, cropped = (torch.nonzero(flags)[:, 0] for flags in (~large, large & ~seen))
    return PlacedObjects(number, label, shares.float(), small, cropped, beyond)


def _as_shown(label: Tensor, placement: Placed) -> Tensor:
    """Return classes [K] as a placed picture shows them: left and right change places in a mirrored one."""
    return exchanged(label, placement.flip_pairs) if placement.mirrored and len(label) else label


def _area(box: Tensor) -> Tensor:
    return (box[:, 2] - box[:, 0]).clamp(min=0) * (box[:, 3] - box[:, 1]).clamp(min=0)


def _cut(objects: PictureObjects, window: tuple[float, float, float, float]) -> tuple[Tensor, Tensor]:
    """Return the boxes of what a window (x0, y0, x1, y1) shows of the objects, and which share of their area it is."""
    x0, y0, x1, y1 = window
    low, high = torch.tensor([x0, y0, x0, y0]).double(), torch.tensor([x1, y1, x1, y1]).double()
    cut = objects.box.clamp(low, high)
    left = _area(cut) / _area(objects.box)
    for index in torch.nonzero((cut != objects.box).any(dim=1))[:, 0].tolist() if objects.parts else ():
        part = objects.parts[index]
        rows = slice(*_pixels(y0, y1, part.box.top, part.mask.shape[0]))
        columns = slice(*_pixels(x0, x1, part.box.left, part.mask.shape[1]))
        seen = part.mask[rows, columns]
        left[index] = seen.sum() / part.area
        if seen.any():
            (top, bottom), (first, last) = (_extent(seen, axis) for axis in (1, 0))
            down, across = part.box.top + rows.start, part.box.left + columns.start
            tight = torch.tensor([across + first, down + top, across + last, down + bottom]).double()
            cut[index] = tight.clamp(low, high)
    return cut, left


def _pixels(start: float, end: float, offset: int, length: int) -> tuple[int, int]:
    """Return the first pixel whose center lies in a span, and the one after the last, from `offset` on."""
    first, last = (min(max(0, int(np.ceil(edge - 0.5)) - offset), length) for edge in (start, end))
    return first, last


def _extent(mask: np.ndarray, axis: int) -> tuple[int, int]:
    found = np.flatnonzero(mask.any(axis=axis))
    return int(found[0]), int(found[-1]) + 1


@dataclass(frozen=True)
class LayoutMaker:
    """Layouts of boxes as the condition of examples; a `ConditionMaker`.

    Styles are drawn anew in each epoch, one for each object of a picture, whether it is seen or not.
    """

    num_classes: int
    foreground: tuple[int, ...]
    """Classes that are objects, where they come from masks."""
    style_dim: int
    seed: int = 0
    rules: LayoutRules = LayoutRules()
    background_class: int = 0
    from_masks: bool = False
    """Objects are those of masks, which the examples have, too, as `label`."""
    with_instances: bool = False
    """They are those of instance maps, where there are such maps."""

    @property
    def reads_labels(self) -> bool:
        return self.from_masks

    def read(self, entry: Pair | GoodImage, label: Tensor | None, size: Size) -> PictureObjects:
        """Return the objects of a picture: annotated ones, else those of its mask; none without either."""
        if isinstance(entry, Pair) and entry.boxes is not None:
            return objects_of_boxes(entry.boxes, size)
        if label is None:
            return objects_of_boxes(BoxedImage(entry.image, background=self.background_class), size)
        instances = None
        if self.with_instances and isinstance(entry, Pair) and entry.instance is not None:
            instances = read_edge_source(entry, label)
        return objects_of_mask(label, self.foreground, self.background_class, instances)

    def window_target(
        self, label: Tensor | None, source: PictureObjects, shown: tuple[int, Box] | None, draw: Callable[[], float]
    ) -> Target | None:
        if label is not None:
            return target_in(label, self.foreground) if shown is None else point_of(label, *shown, draw())
        if shown is not None:
            (top, left), (height, width) = (shown[1].top, shown[1].left), shown[1].size
            row, column = divmod(int(draw() * height * width), width)
            return Target(shown[1], (top + row, left + column))
        if not len(source.label):
            return None
        box = whole_pixels(source.box[int(_area(source.box).argmax())].tolist())
        return Target(box, ((box.top + box.bottom) // 2, (box.left + box.right) // 2))

    def entries(
        self, label: Tensor | None, source: PictureObjects, placement: Placed, key: ExampleKey
    ) -> dict[str, Any]:
        """Return `object_label` [K], `object_box` [K, 4], `object_style` [K, Z]; `label` [H, W] if from masks."""
        placed = place_objects(source, placement, self.rules)
        style_seed = derive_seed(Stream.STYLE, self.seed, key.epoch)
        # Row 0 is the background's, so that the others keep theirs whether there is one or not.
        styles = object_styles(style_seed, key.index, 1 + len(source.label), self.style_dim)
        ids, boxes, rows = placed.label, placed.box, 1 + placed.number
        if self.rules.background:
            ids = torch.cat([_as_shown(ids.new_tensor([source.background]), placement), ids])
            boxes = torch.cat([boxes.new_tensor([WHOLE_BOX]), boxes])
            rows = torch.cat([rows.new_tensor([0]), rows])
        entries = dict(zip(_ENTRIES, (ids, boxes, styles[rows]), strict=True))
        return entries if label is None else {**entries, "label": label}

    def collate(self, examples: Sequence[dict[str, Any]]) -> LayoutCondition:
        layouts = []
        for example in examples:
            height, width = example["image"].shape[-2:]
            parts = (example.pop(name)[None] for name in _ENTRIES)
            layouts.append(LayoutCondition(*parts, self.num_classes, (height, width), self.rules.background))
        return LayoutCondition.cat(layouts)


def whole_pixels(box: Sequence[float]) -> Box:
    """Return the pixels that a box (x0, y0, x1, y1) touches."""
    x0, y0, x1, y1 = box
    return Box(int(np.floor(y0)), int(np.floor(x0)), int(np.ceil(y1)), int(np.ceil(x1)))
