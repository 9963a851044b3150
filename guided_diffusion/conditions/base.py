"""The protocol of a condition: what an image is made from, as data, diffusion and models share it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

Size = tuple[int, int]
"""Height and width in pixels."""


class Prepared(Protocol):
    """What a network precomputed from N conditions; it travels beside them and follows every change of theirs."""

    def __len__(self) -> int:
        """Return N."""

    def __getitem__(self, index: slice | Tensor) -> Self:
        """Select items of the batch by a slice or an index tensor."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Move to `device`."""

    def pin_memory(self) -> Self:
        """Move to page-locked memory, from which a GPU copies in the background."""

    def drop(self, dropped: Tensor) -> Self:
        """Turn every item of `dropped` ([N] booleans) into that of the null condition."""


class Condition(Prepared, Protocol):
    """A batch of N conditions of images of one size."""

    @property
    def size(self) -> Size:
        """Height and width of the images in pixels."""

    @property
    def device(self) -> torch.device:
        """Where the condition's tensors lie."""

    def null(self) -> Self:
        """Return N null conditions: the unconditional branch of classifier-free guidance."""

    @staticmethod
    def cat(conditions: Sequence[Self]) -> Self:
        """Concatenate conditions of one kind and size along the batch."""
