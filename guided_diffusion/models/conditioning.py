"""How a condition reaches the features: what a network asks of the normalizations in its decoder.

A `Conditioner` makes the normalizations and what they share at one level; each turns that into a `Modulation`, a scale
and a shift of its features that depends on the condition alone. Networks know these three, and none of their kinds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guided_diffusion.conditions.base import Condition, Prepared, Size
from guided_diffusion.models.architecture import GROUPS
from guided_diffusion.models.group_norm import as_features, normalized_pixels


class Modulation(ABC):
    """Scale and shift of one conditioned normalization for a batch of conditions."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of conditions."""

    def norm_silu(self, x: Tensor, time_scale: Tensor | None = None, time_shift: Tensor | None = None) -> Tensor:
        """Return SiLU(modulate(normalize(x)) * (1 + time_scale) + time_shift).

        x: [N, C, H, W]. time_scale, time_shift: [N, C], or None for 0.
        """
        if torch.is_grad_enabled():
            return self.with_gradients(x, time_scale, time_shift)
        pixels = normalized_pixels(x, groups=GROUPS)
        self.modulate_(pixels, time_scale, time_shift)
        return as_features(pixels, x)

    @abstractmethod
    def with_gradients(self, x: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> Tensor:
        """Return what `norm_silu` does, in operations that autograd can follow."""

    @abstractmethod
    def modulate_(self, pixels: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> None:
        """Change normalized `pixels` [N, H * W, C] to SiLU(modulate(pixels) * (1 + time_scale) + time_shift)."""

    @abstractmethod
    def expand(self, n: int, shared: dict[Any, Any]) -> Modulation:
        """Return the modulation of one condition as that of `n` such ones.

        shared: what the modulations of a network have in common -> the same for `n`, as far as it was made already.
        """

    @abstractmethod
    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor it holds; the first dimension of each may differ between batches."""


@dataclass(frozen=True, eq=False)
class JoinedModulation(Modulation):
    """Modulations one after the other along the batch."""

    parts: tuple[Modulation, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def with_gradients(self, x: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> Tensor:
        return torch.cat([part.with_gradients(*images) for part, *images in self._split(x, time_scale, time_shift)])

    def modulate_(self, pixels: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> None:
        for part, *images in self._split(pixels, time_scale, time_shift):
            part.modulate_(*images)

    def _split(self, x: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> Iterator[tuple]:
        sizes = [len(part) for part in self.parts]
        scales, shifts = ([None] * len(sizes) if v is None else v.split(sizes) for v in (time_scale, time_shift))
        return zip(self.parts, x.split(sizes), scales, shifts, strict=True)

    def expand(self, n: int, shared: dict[Any, Any]) -> Modulation:
        raise AssertionError(f"only the modulation of one condition can stand for {n}, this is of {len(self)}")

    def tensors(self) -> Iterator[Tensor]:
        for part in self.parts:
            yield from part.tensors()


class Modulations(Sequence[Modulation]):
    """The modulations of all conditioned normalizations of a network, in the order in which its decoder takes them.

    They are a function of the condition, not of image or timestep. A network without a condition has none of them.
    """

    def __init__(self, layers: Sequence[Modulation]):
        self._layers = tuple(layers)

    def __getitem__(self, index: int) -> Modulation:
        return self._layers[index]

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Modulation]:
        return iter(self._layers)

    def expand(self, n: int) -> Modulations:
        """Return modulations of one condition as those of `n` such ones."""
        shared: dict[Any, Any] = {}
        for layer in self:
            assert len(layer) == 1, f"only the modulation of one condition can stand for {n}, this is of {len(layer)}"
        return Modulations([layer.expand(n, shared) for layer in self])

    @staticmethod
    def cat(branches: Sequence[Modulations]) -> Modulations:
        """Concatenate modulations of the same network along the batch."""
        return Modulations([JoinedModulation(layers) for layers in zip(*branches, strict=True)])


class ConditionedNorm(nn.Module, ABC):
    """A group normalization that a condition modulates; what it learns is how."""

    @abstractmethod
    def modulate(self, level: Any) -> Modulation:
        """Return the modulation that a condition asks for; level: what its conditioner made of it, `level(...)`."""

    def norm_silu(
        self, x: Tensor, modulation: Modulation, time_scale: Tensor | None = None, time_shift: Tensor | None = None
    ) -> Tensor:
        """Return SiLU(modulate(normalize(x)) * (1 + time_scale) + time_shift), see `Modulation.norm_silu`."""
        return modulation.norm_silu(x, time_scale, time_shift)


class Conditioner(ABC):
    """Makes the normalizations of a network's decoder, and of a condition what those of one level share.

    One with weights of its own is also an `nn.Module`, which makes them the network's.
    """

    @abstractmethod
    def norm(self, channels: int) -> ConditionedNorm:
        """Return a new normalization for features of `channels`."""

    @abstractmethod
    def check(self, condition: Condition) -> None:
        """Raise AssertionError where `condition` is not of the kind or the channels that the normalizations take."""

    def prepare(self, condition: Condition, sizes: Sequence[Size]) -> Prepared | None:
        """Return what can be made of `condition` before it reaches the network's device, None for nothing.

        sizes: of the levels, from fine to coarse. Runs in a data loader's processes.
        """
        return None

    @abstractmethod
    def level(self, condition: Condition, size: Size, prepared: Prepared | None) -> Any:
        """Return what all normalizations of the level of `size` (height, width) share.

        prepared: what `prepare` returned of the same condition, or None.
        """


@dataclass(frozen=True)
class ConditionOptions:
    """What a conditioner is made from: the published options of a network that concern its condition.

    num_classes: real classes. no_instance: false for one more channel with edges. spade: see `SpadeConditioner`.
    """

    num_classes: int | None = None
    no_instance: bool = True
    spade: str = "auto"
