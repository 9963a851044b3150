"""A second conditioner: a learned scale and shift for each class, averaged over the map; the same for all pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guided_diffusion.conditions.base import Size
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.models.conditioning import ConditionedNorm, Conditioner, ConditionOptions, Modulation
from guided_diffusion.models.group_norm import modulate_by_rows_, modulated_norm


@dataclass(frozen=True)
class ClassShares:
    """The share of each class in each map, [N, K]; zero in a null map."""

    share: Tensor

    def __len__(self) -> int:
        return len(self.share)

    def __getitem__(self, index: slice | Tensor) -> ClassShares:
        return ClassShares(self.share[index])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> ClassShares:
        return ClassShares(self.share.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ClassShares:
        return ClassShares(self.share.pin_memory())

    def drop(self, dropped: Tensor) -> ClassShares:
        return ClassShares(self.share.masked_fill(dropped.to(self.share.device)[:, None], 0))


@dataclass(frozen=True)
class ClassMeanModulation(Modulation):
    """scale, shift: [N, C]."""

    scale: Tensor
    shift: Tensor

    def __len__(self) -> int:
        return len(self.scale)

    def with_gradients(self, x: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> Tensor:
        return modulated_norm(x, *self._with_time(time_scale, time_shift), None)

    def modulate_(self, pixels: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> None:
        modulate_by_rows_(pixels, *self._with_time(time_scale, time_shift), None)

    def _with_time(self, time_scale: Tensor | None, time_shift: Tensor | None) -> tuple[Tensor, Tensor]:
        if time_scale is None:
            return self.scale, self.shift
        return self.scale * (1 + time_scale), self.shift * (1 + time_scale) + time_shift

    def expand(self, n: int, shared: dict[Any, Any]) -> ClassMeanModulation:
        return ClassMeanModulation(self.scale.expand(n, -1), self.shift.expand(n, -1))

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.scale, self.shift)


class ClassMeanNorm(ConditionedNorm):
    """weight: [K, 2 C], what each class adds to scale and shift."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_classes, 2 * channels))

    def modulate(self, level: ClassShares) -> ClassMeanModulation:
        scale, shift = (level.share @ self.weight).chunk(2, dim=1)
        return ClassMeanModulation(1 + scale, shift)


@dataclass(frozen=True)
class ClassMeanConditioner(Conditioner):
    """Makes the normalizations for maps of `num_classes`."""

    num_classes: int

    @staticmethod
    def from_options(options: ConditionOptions) -> ClassMeanConditioner:
        return ClassMeanConditioner(options.num_classes)

    def norm(self, channels: int) -> ClassMeanNorm:
        return ClassMeanNorm(channels, self.num_classes)

    def check(self, condition: SemanticMap) -> None:
        assert condition.num_classes == self.num_classes

    def prepare(self, condition: SemanticMap, sizes: Sequence[Size] = ()) -> ClassShares:
        return ClassShares(condition.one_hot().mean(dim=(2, 3)))

    def level(self, condition: SemanticMap, size: Size, prepared: ClassShares | None) -> ClassShares:
        return self.prepare(condition) if prepared is None else prepared
