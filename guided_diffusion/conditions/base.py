"""The protocol of a condition: what an image is made from, as data, diffusion and models share it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

Size = tuple[int, int]
"""Height and width in pixels."""


class Prepared(Protocol):
    """What a network's normalizations have prepared of N conditions, kept right while it rides beside them."""

    def __len__(self) -> int:
        """Return N."""
        ...

    def __getitem__(self, index: slice | Tensor) -> Self:
        """Return what was prepared of the conditions that `index` (a slice or an index tensor) selects."""
        ...

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Return the same on `device`."""
        ...

    def pin_memory(self) -> Self:
        """Return the same in page-locked memory, from which a GPU copies in the background."""
        ...

    def drop(self, dropped: Tensor) -> Self:
        """Return what would be prepared of `condition.drop(dropped)`, dropped: [N] booleans."""
        ...


class Condition(Prepared, Protocol):
    """A batch of N conditions of images of one size."""

    @property
    def size(self) -> Size:
        """Height and width of the images in pixels."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the condition's tensors lie."""
        ...

    def drop(self, dropped: Tensor) -> Self:
        """Return the conditions with every one of `dropped` ([N] booleans) turned into the null condition."""
        ...

    def null(self) -> Self:
        """Return N null conditions: the unconditional branch of classifier-free guidance."""
        ...

    @staticmethod
    def cat(conditions: Sequence[Self]) -> Self:
        """Concatenate conditions of one kind and size along the batch."""
        ...
