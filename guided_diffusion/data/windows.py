"""Which part of which picture a window shows: components of all classes alike, and places without any."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from guided_diffusion.data.components import Box, find_components
from guided_diffusion.data.transforms import Target


@dataclass(frozen=True)
class WindowPlan:
    """The components of a training set, by class, and how often windows are laid on them."""

    focus: float  # share of the windows that show a component; the others lie anywhere in any picture
    components: Mapping[int, Sequence[tuple[int, Box]]]  # class -> (index of the picture, its box)
    num_images: int  # with those that have no components
    _classes: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        classes = tuple(class_id for class_id in sorted(self.components) if self.components[class_id])
        object.__setattr__(self, "_classes", classes)

    def draw(self, generator: torch.Generator) -> tuple[int, int | None, Box | None]:
        """Return the picture of a window, and the class and box of the component that it shows, if any.

        The class is drawn evenly among those that have components, then one of its components.
        """
        focused, first, second = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        if not self._classes or focused >= self.focus:
            return int(first * self.num_images), None, None
        class_id = self._classes[int(first * len(self._classes))]
        of_class = self.components[class_id]
        index, box = of_class[int(second * len(of_class))]
        return index, class_id, box

    def expected(self, windows: int) -> dict[int, tuple[int, float]]:
        """Return for each class its components, and how many of `windows` windows are laid on each of these."""
        share = self.focus / max(1, len(self._classes))
        return {
            class_id: (len(found), windows * share / len(found)) for class_id, found in self.components.items() if found
        }


def boxes_of(label: Tensor, classes: Sequence[int]) -> list[tuple[int, Box]]:
    """Return class and box of each component of `classes` in a label map [H, W]."""
    return [(component.class_id, component.box) for component in find_components(label.numpy(), classes)]


def plan_windows(found: Sequence[Sequence[tuple[int, Box]]], *, focus: float, good_images: int) -> WindowPlan:
    """Return the plan of windows over a training set and `good_images` pictures beside it.

    found: what `boxes_of` says of each mask.
    """
    components: dict[int, list[tuple[int, Box]]] = {}
    for index, boxes in enumerate(found):
        for class_id, box in boxes:
            components.setdefault(class_id, []).append((index, box))
    return WindowPlan(focus, components, len(found) + good_images)


def point_of(label: Tensor, class_id: int, box: Box, draw: float) -> Target | None:
    """Return the target of a window on a component: a pixel of the class in its box, chosen by `draw` in [0, 1).

    None if the label map [H, W] has no such pixel there.
    """
    rows, columns = torch.nonzero(label[box.slices] == class_id, as_tuple=True)
    if not len(rows):
        return None
    chosen = int(draw * len(rows))
    return Target(box, (box.top + int(rows[chosen]), box.left + int(columns[chosen])))


def target_in(label: Tensor, classes: Sequence[int], draw: Callable[[], float] | None = None) -> Target | None:
    """Return a component of `classes` in one label map [H, W] as the target of a window, None without any.

    draw: numbers in [0, 1): first chooses a class evenly, then its component and a pixel. None: the largest component.
    """
    found = find_components(label.numpy(), classes)
    if not found:
        return None
    if draw is None:
        chosen, pixel = max(found, key=lambda component: component.area), 0.5
    else:
        present = sorted({component.class_id for component in found})
        class_id = present[int(draw() * len(present))]
        of_class = [component for component in found if component.class_id == class_id]
        chosen, pixel = of_class[int(draw() * len(of_class))], draw()
    return point_of(label, chosen.class_id, chosen.box, pixel)


def numbers(generator: torch.Generator) -> Iterator[float]:
    """Yield random numbers in [0, 1)."""
    while True:
        yield float(torch.rand((), generator=generator, dtype=torch.float64))
