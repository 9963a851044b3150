"""Layouts of images that are to be made: objects with classes and boxes, and the seeds of their styles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from guided_diffusion.conditions.base import Size
from guided_diffusion.conditions.layout import WHOLE_BOX, LayoutCondition, style_seed, styles_of
from guided_diffusion.data.boxes.records import Corners

BACKGROUND_NUMBER = 0
"""The number of a background; objects begin at 1."""
_SLOTS = 8


@dataclass(frozen=True)
class AskedObject:
    """An object of an image to be made, or its background."""

    class_id: int
    box: Corners
    """Shares of width and height."""
    number: int
    """In its layout: the style depends on it, so that it stays where other objects come, go and move."""
    style_seed: int | None = None
    """None: by run, image and number."""

    @property
    def is_background(self) -> bool:
        return self.number == BACKGROUND_NUMBER


@dataclass(frozen=True)
class AskedLayout:
    """The objects of an image to be made; the background comes first, where the model has one."""

    stem: str
    """Its name, with sub-folders, without extension."""
    objects: tuple[AskedObject, ...]
    inside: tuple[int, int, int, int] | None = None
    """Rows and columns (first, end, first, end) of what is no border; None: all."""
    lineage: Mapping[str, Any] | None = None
    """What it was made of, as a manifest records it (`MaskLineage`); None: nothing that is known."""

    def only_background(self) -> AskedLayout:
        """Return the layout without its objects."""
        return replace(self, objects=tuple(each for each in self.objects if each.is_background))

    def with_styles(self, seed: int, image_index: int) -> AskedLayout:
        """Return the layout with a style seed for each object that has none, by the seed of the run."""
        return replace(
            self,
            objects=tuple(
                each if each.style_seed is not None else _styled(each, seed, image_index) for each in self.objects
            ),
        )


def _styled(asked: AskedObject, seed: int, image_index: int) -> AskedObject:
    return replace(asked, style_seed=style_seed(seed, image_index, asked.number))


def background_of(class_id: int, style_seed: int | None = None) -> AskedObject:
    """Return the background of a class."""
    return AskedObject(class_id, WHOLE_BOX, BACKGROUND_NUMBER, style_seed)


def slots_of(layouts: Sequence[AskedLayout]) -> int:
    """Return how many slots the layouts of a source take: the same in every batch, so that sums are the same."""
    largest = max(len(layout.objects) for layout in layouts)
    return max(1, -(-largest // _SLOTS)) * _SLOTS


def condition_of_layouts(
    layouts: Sequence[AskedLayout], *, num_classes: int, size: Size, slots: int, style_dim: int, background: bool
) -> LayoutCondition:
    """Return the condition of a batch of layouts whose objects have style seeds, with `slots` slots each."""
    rows = []
    for layout in layouts:
        label = torch.tensor([each.class_id for each in layout.objects], dtype=torch.int64)
        box = torch.tensor([each.box for each in layout.objects], dtype=torch.float32).reshape(-1, 4)
        style = styles_of([each.style_seed for each in layout.objects], style_dim)
        row = LayoutCondition(label[None], box[None], style[None], num_classes, size, background)
        rows.append(row.padded(slots))
    return LayoutCondition.cat(rows)


def shares_of(inside: tuple[int, int, int, int], size: Size) -> Corners:
    """Return the `inside` of a layout as a box in shares of an image of `size`."""
    top, bottom, left, right = inside
    return left / size[1], top / size[0], right / size[1], bottom / size[0]


def inside_of_shares(box: Corners, size: Size) -> tuple[int, int, int, int] | None:
    """Return the `inside` of a layout of an image of `size`; None: all of it."""
    left, right = round(box[0] * size[1]), round(box[2] * size[1])
    top, bottom = round(box[1] * size[0]), round(box[3] * size[0])
    return None if (top, bottom, left, right) == (0, size[0], 0, size[1]) else (top, bottom, left, right)


def inside_of(layouts: Sequence[AskedLayout], size: Size) -> Tensor | None:
    """Return which pixels [N, H, W] are no border; None: all are."""
    if all(layout.inside is None for layout in layouts):
        return None
    inside = torch.zeros(len(layouts), *size, dtype=torch.bool)
    for pixels, layout in zip(inside, layouts, strict=True):
        top, bottom, left, right = layout.inside or (0, size[0], 0, size[1])
        pixels[top:bottom, left:right] = True
    return inside


def layouts_digest(layouts: Sequence[AskedLayout]) -> str:
    """Return 16 hexadecimal digits that stand for these layouts, by which a folder is known to be made of them."""
    content = [
        [
            layout.stem,
            layout.inside,
            [[each.class_id, each.box, each.number, each.style_seed] for each in layout.objects],
        ]
        for layout in layouts
    ]
    return sha256(json.dumps(content).encode()).hexdigest()[:16]
