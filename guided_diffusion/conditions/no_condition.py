"""NoCondition: what a network without a condition is called with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from guided_diffusion.conditions.base import Size

CPU = torch.device("cpu")


@dataclass(frozen=True)
class NoCondition:
    """A `Condition` of `count` images of which only the `size` (height, width) is given."""

    count: int
    size: Size
    device: torch.device = CPU

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: slice | Tensor) -> NoCondition:
        return replace(self, count=len(torch.empty(self.count)[index]))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> NoCondition:
        return replace(self, device=torch.device(device))

    def pin_memory(self) -> NoCondition:
        return self

    def drop(self, dropped: Tensor) -> NoCondition:
        return self

    def null(self) -> NoCondition:
        return self

    @staticmethod
    def cat(conditions: Sequence[NoCondition]) -> NoCondition:
        return replace(conditions[0], count=sum(map(len, conditions)))
