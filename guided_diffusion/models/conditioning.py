"""How a condition reaches the features of a network.

A `Conditioner` makes the normalizations of the decoder, and the tensors that those of one level share. From these each
`ConditionedNorm` makes a `Modulation`, a scale and a shift of its features that depends on the condition alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guided_diffusion.conditions.base import Condition, Prepared, Size
from guided_diffusion.models.group_norm import as_features, normalized_pixels


class Modulation(ABC):
    """Scale and shift of one conditioned normalization for a batch of conditions.

    time_scale, time_shift: [N, C], or both None for 0.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of conditions."""

    def norm_silu(self, x: Tensor, time_scale: Tensor | None = None, time_shift: Tensor | None = None) -> Tensor:
        """Return SiLU(modulate(normalize(x)) * (1 + time_scale) + time_shift) for x [N, C, H, W]."""
        if torch.is_grad_enabled():
            return self.with_gradients(x, time_scale, time_shift)
        pixels, _ = normalized_pixels(x)
        self.modulate_(pixels, time_scale, time_shift)
        return as_features(pixels, x)

    @abstractmethod
    def with_gradients(self, x: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> Tensor:
        """Do the same as `norm_silu`, differentiably."""

    @abstractmethod
    def modulate_(self, pixels: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> None:
        """Change normalized `pixels` [N, H * W, C] to SiLU(modulate(pixels) * (1 + time_scale) + time_shift)."""

    def see(self, head: nn.Module, h: Tensor) -> Any:
        """Return what `head` makes of the output h [N, C, H, W] of this modulation's block, for `refined` of the next.

        Only conditioners that make heads need it; None changes nothing.
        """
        return None

    def refined(self, seen: Any, start: Size) -> Modulation:
        """Return the modulation changed by what `see` of the block before returned.

        start: size of the input of this modulation's block.
        """
        return self

    def object_masks(self) -> Tensor:
        """Return the masks of objects that this modulation draws, [N, O, H, W] in 0..1, at the size of its features."""
        raise AssertionError("only layouts with objects have masks")

    def mask_logits(self) -> Tensor:
        """Return the logits of the regressed masks of objects in their boxes, [N, O, cells, cells]."""
        raise AssertionError("only layouts with objects have masks")

    @abstractmethod
    def expand(self, n: int, shared: dict[Any, Any]) -> Modulation:
        """Return the modulation of one condition repeated `n` times.

        shared: parts that several modulations of the network have in common -> their expansion, filled on the way.
        """

    @abstractmethod
    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor of the modulation; the first dimension of each may differ between batches."""


@dataclass(frozen=True, eq=False)
class JoinedModulation(Modulation):
    """Modulations concatenated along the batch."""

    parts: tuple[Modulation, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def with_gradients(self, x: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> Tensor:
        return torch.cat([part.with_gradients(*images) for part, *images in self._split(x, time_scale, time_shift)])

    def modulate_(self, pixels: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> None:
        for part, *images in self._split(pixels, time_scale, time_shift):
            part.modulate_(*images)

    def see(self, head: nn.Module, h: Tensor) -> tuple[Any, ...]:
        return tuple(part.see(head, own) for part, own, *_ in self._split(h, None, None))

    def refined(self, seen: tuple[Any, ...], start: Size) -> JoinedModulation:
        return JoinedModulation(tuple(part.refined(own, start) for part, own in zip(self.parts, seen, strict=True)))

    def _split(self, x: Tensor, time_scale: Tensor | None, time_shift: Tensor | None) -> Iterator[tuple]:
        sizes = [len(part) for part in self.parts]
        scales, shifts = ([None] * len(sizes) if v is None else v.split(sizes) for v in (time_scale, time_shift))
        return zip(self.parts, x.split(sizes), scales, shifts, strict=True)

    def expand(self, n: int, shared: dict[Any, Any]) -> Modulation:
        raise AssertionError("joined modulations have more than one condition")

    def tensors(self) -> Iterator[Tensor]:
        for part in self.parts:
            yield from part.tensors()


class Modulations(Sequence[Modulation]):
    """The modulations of all conditioned normalizations of a network, in the order of its decoder."""

    def __init__(self, layers: Sequence[Modulation]):
        self._layers = tuple(layers)

    def __getitem__(self, index: int) -> Modulation:
        return self._layers[index]

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Modulation]:
        return iter(self._layers)

    def expand(self, n: int) -> Modulations:
        """Return the modulations of one condition repeated `n` times."""
        assert all(len(layer) == 1 for layer in self), "only the modulations of one condition can be expanded"
        shared: dict[Any, Any] = {}
        return Modulations([layer.expand(n, shared) for layer in self])

    @staticmethod
    def cat(branches: Sequence[Modulations]) -> Modulations:
        """Concatenate modulations of the same network along the batch."""
        return Modulations([JoinedModulation(layers) for layers in zip(*branches, strict=True)])


class DecoderPass:
    """Hands the modulations of one pass through the decoder to its blocks, changed by what the blocks before saw.

    last: the second modulation of the block that was the last.
    """

    def __init__(self, modulations: Iterable[Modulation]):
        self._rest = iter(modulations)
        self.seen: Any = None
        self.last: Modulation | None = None

    def next_block(self, size: Size) -> tuple[Modulation, Modulation]:
        """Return the two modulations of the next block, whose input has `size`."""
        pair = next(self._rest), next(self._rest)
        if self.seen is not None:
            pair = tuple(modulation.refined(self.seen, size) for modulation in pair)
        self.last = pair[1]
        return pair

    def end(self) -> None:
        """Raise AssertionError if there are modulations left."""
        assert next(self._rest, None) is None, "more modulations than conditioned normalizations"


class ConditionedNorm(nn.Module, ABC):
    """A group normalization that a condition modulates."""

    @abstractmethod
    def modulate(self, level: Any) -> Modulation:
        """Return the modulation for what the conditioner's `level` returned."""

    def norm_silu(
        self, x: Tensor, modulation: Modulation, time_scale: Tensor | None = None, time_shift: Tensor | None = None
    ) -> Tensor:
        """Return `modulation.norm_silu(x, time_scale, time_shift)`."""
        return modulation.norm_silu(x, time_scale, time_shift)


class Conditioner(ABC):
    """Makes the normalizations of a network's decoder, and the tensors that those of one level share.

    A conditioner with weights is also an `nn.Module`, so that they are weights of the network.
    """

    @abstractmethod
    def norm(self, channels: int) -> ConditionedNorm:
        """Return a new normalization for features of `channels`."""

    def head(self, channels: int) -> nn.Module | None:
        """Return a new head on the output of a block of `channels`, which `Modulation.see` calls; None for none.

        The last block has none: its output modulates nothing.
        """
        return None

    @abstractmethod
    def check(self, condition: Condition) -> None:
        """Raise AssertionError for a condition of another kind or number of channels."""

    def prepare(self, condition: Condition, sizes: Sequence[Size]) -> Prepared | None:
        """Return what a data loader's process can prepare of `condition`, for levels of `sizes` from fine to coarse."""
        return None

    @abstractmethod
    def level(self, condition: Condition, size: Size, prepared: Prepared | None) -> Any:
        """Return what all normalizations of the level of `size` (height, width) share.

        prepared: what `prepare` returned for the same condition, or None.
        """

    def levels(self, condition: Condition, sizes: Sequence[Size], prepared: Prepared | None) -> list[Any]:
        """Return `level` for each of `sizes`; where levels have something in common, it is made once."""
        return [self.level(condition, size, prepared) for size in sizes]


@dataclass(frozen=True)
class ConditionOptions:
    """The options from which a conditioner is made.

    num_classes: real classes. no_instance: false for one more channel with edges. spade: see `SpadeConditioner`. The
    others: see `LayoutConditioner`.
    """

    num_classes: int | None = None
    no_instance: bool = True
    spade: str = "auto"
    stage_masks: bool = True
    overlap: str = "smallest"
    style_dim: int = 128
    label_dim: int = 180
