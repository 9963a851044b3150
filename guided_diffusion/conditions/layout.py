"""LayoutCondition: objects with a class, a box and a style as the condition of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from guided_diffusion.conditions.base import Size
from guided_diffusion.runtime.seeding import Stream, derive_seed

WHOLE_BOX = (0.0, 0.0, 1.0, 1.0)
"""The box of a background."""
EMPTY_BOX = (-1.0, -1.0, -0.5, -0.5)
"""The box of an empty slot: outside of the image, and of some size, so that nothing divides by zero."""


@dataclass(frozen=True, eq=False)
class LayoutCondition:
    """A batch of layouts, lists of objects; a `Condition`. Images with fewer objects have empty slots."""

    label: Tensor
    """[N, O] int64 in `0..num_classes`, the class of each object; `num_classes` itself is an empty slot, which has no
    effect on anything."""
    box: Tensor
    """[N, O, 4] float32: x0, y0, x1, y1 as shares of width and height, 0 to 1; a box may stick out of the image."""
    style: Tensor
    """[N, O, Z] float32, the look of each object: standard normal numbers, from `object_styles`."""
    num_classes: int
    size: Size
    """Height and width of the images in pixels."""
    background: bool = True
    """True if slot 0 of every image that is not dropped is its background: an object whose mask is 1 everywhere."""

    def __post_init__(self) -> None:
        assert self.label.ndim == 2, "label must be of shape [N, O]"
        assert not self.label.is_floating_point(), "label must be integers"
        assert self.box.shape == (*self.label.shape, 4), "box must be of shape [N, O, 4]"
        assert self.style.shape[:2] == self.label.shape, "style must be of shape [N, O, Z]"

    def __len__(self) -> int:
        return self.label.shape[0]

    def __getitem__(self, index: slice | Tensor) -> LayoutCondition:
        return self._each_tensor(lambda tensor: tensor[index])

    @property
    def device(self) -> torch.device:
        return self.label.device

    @property
    def slots(self) -> int:
        """O, empty ones included."""
        return self.label.shape[1]

    @property
    def present(self) -> Tensor:
        """[N, O] booleans: the slots that have an object."""
        return self.label != self.num_classes

    @property
    def front(self) -> Tensor:
        """[N, O] int64: the slots from the smallest object to the largest one, then the background."""
        last = torch.zeros_like(self.label, dtype=torch.bool)
        last[:, : int(self.background)] = True
        return from_small_to_large(self.box, last)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> LayoutCondition:
        return self._each_tensor(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> LayoutCondition:
        return self._each_tensor(Tensor.pin_memory)

    def _each_tensor(self, change: Callable[[Tensor], Tensor]) -> LayoutCondition:
        return replace(self, label=change(self.label), box=change(self.box), style=change(self.style))

    def drop(self, dropped: Tensor) -> LayoutCondition:
        """Empty all slots of the layouts of `dropped` ([N] booleans), the background's too."""
        return self._emptied(dropped.to(self.device)[:, None].expand_as(self.label))

    def without(self, objects: Tensor) -> LayoutCondition:
        """Empty the slots of `objects` ([N, O] booleans)."""
        return self._emptied(objects.to(self.device))

    def _emptied(self, emptied: Tensor) -> LayoutCondition:
        return replace(
            self,
            label=self.label.masked_fill(emptied, self.num_classes),
            box=torch.where(emptied[..., None], self.box.new_tensor(EMPTY_BOX), self.box),
            style=self.style.masked_fill(emptied[..., None], 0),
        )

    def null(self) -> LayoutCondition:
        return self.drop(torch.ones(len(self), dtype=torch.bool))

    def padded(self, slots: int) -> LayoutCondition:
        """Return the layouts with empty slots behind the others, so that there are at least `slots`."""
        missing = slots - self.slots
        if missing <= 0:
            return self
        shape = (len(self), missing)
        more = LayoutCondition(
            self.label.new_full(shape, self.num_classes),
            self.box.new_tensor(EMPTY_BOX).expand(*shape, 4),
            self.style.new_zeros(*shape, self.style.shape[2]),
            self.num_classes,
            self.size,
        )
        return replace(
            self,
            label=torch.cat([self.label, more.label], dim=1),
            box=torch.cat([self.box, more.box], dim=1),
            style=torch.cat([self.style, more.style], dim=1),
        )

    @staticmethod
    def cat(conditions: Sequence[LayoutCondition]) -> LayoutCondition:
        first = conditions[0]
        kinds = {(layouts.num_classes, layouts.size, layouts.background) for layouts in conditions}
        assert len(kinds) == 1, f"layouts of several kinds: {kinds}"
        slots = max(layouts.slots for layouts in conditions)
        padded = [layouts.padded(slots) for layouts in conditions]
        return replace(
            first,
            label=torch.cat([layouts.label for layouts in padded]),
            box=torch.cat([layouts.box for layouts in padded]),
            style=torch.cat([layouts.style for layouts in padded]),
        )


def style_seed(seed: int, image_index: int, number: int) -> int:
    """Return the seed of the style of an object, by its number in the image; number 0 is the background."""
    return derive_seed(Stream.STYLE, seed, image_index, number)


def styles_of(seeds: Sequence[int], dim: int) -> Tensor:
    """Return the styles of `style_seed`s, [len(seeds), dim] float32, standard normal."""
    styles = torch.empty(len(seeds), dim)
    for seed, row in zip(seeds, styles, strict=True):
        row.normal_(generator=torch.Generator().manual_seed(seed))
    return styles


def object_styles(seed: int, image_index: int, count: int, dim: int) -> Tensor:
    """Return the styles of the first `count` objects of an image, [count, dim] float32, standard normal.

    Each row depends on (seed, image_index, number of the object) alone: other objects may come, go and move.
    """
    return styles_of([style_seed(seed, image_index, number) for number in range(count)], dim)


def from_small_to_large(box: Tensor, last: Tensor) -> Tensor:
    """Return the slots of boxes [N, O, 4] by area, [N, O] int64; of equal ones the earlier slot is first.

    last: [N, O] booleans, the slots that come last in any case.
    """
    area = (box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])
    return area.masked_fill(last, float("inf")).argsort(dim=1, stable=True)
