"""Layouts to be made, of the objects of pictures: placed as the model sees them, without anything random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from guided_diffusion.data.boxes.asked import AskedLayout, AskedObject, background_of
from guided_diffusion.data.boxes.layouts import LayoutMaker, PictureObjects, place_objects
from guided_diffusion.data.transforms import JointTransform


@dataclass(frozen=True)
class LayoutPlacer:
    """Makes layouts of pictures. transform: without augmentation; a window shows the largest object."""

    maker: LayoutMaker
    transform: JointTransform

    def __post_init__(self) -> None:
        assert not self.transform.train

    def place(
        self,
        stem: str,
        objects: PictureObjects,
        label: Tensor | None = None,
        *,
        lineage: Mapping[str, Any] | None = None,
        style_seeds: Mapping[int, int] | None = None,
    ) -> AskedLayout:
        """Return the layout of a picture; style_seeds: by the numbers of the objects, from 1, 0 is the background."""
        seeds = style_seeds or {}
        target = self.maker.window_target(label, objects, None, lambda: 0.5)
        placement = self.transform.place(objects.size, target=target)
        placed = place_objects(objects, placement, self.maker.rules)
        found = [
            AskedObject(class_id, tuple(box), 1 + number, seeds.get(1 + number))
            for number, class_id, box in zip(
                placed.number.tolist(), placed.label.tolist(), placed.box.tolist(), strict=True
            )
        ]
        if self.maker.rules.background:
            found.insert(0, background_of(objects.background, seeds.get(0)))
        (top, bottom), (left, right) = placement.seen
        down, across = (max(0, -start) for start in placement.offset)
        inside = (down, down + bottom - top, across, across + right - left)
        whole = (0, placement.size[0], 0, placement.size[1])
        return AskedLayout(stem, tuple(found), None if inside == whole else inside, lineage)
