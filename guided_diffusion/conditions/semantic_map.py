"""SemanticMap: label maps, optionally with instance edges, as the condition of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from guided_diffusion.conditions.base import Size


@dataclass(frozen=True)
class SemanticMap:
    """A batch of label maps, optionally with instance edges; a `Condition`."""

    label: Tensor
    """[N, H, W] integers in `0..num_classes`. `num_classes` itself is the *null* id: the class is unknown there (a
    dropped condition, an ignored pixel, a pixel masked by label diffusion); its one-hot vector is all zeros."""
    num_classes: int
    edge: Tensor | None = None
    """[N, H, W] booleans, True where a pixel's instance differs from a 4-neighbor's; None without an edge channel."""

    def __post_init__(self) -> None:
        assert self.label.ndim == 3, "label must be of shape [N, H, W]"
        assert not self.label.is_floating_point(), "label must be integers"
        assert self.edge is None or (self.edge.shape == self.label.shape and self.edge.dtype == torch.bool)

    def __len__(self) -> int:
        return self.label.shape[0]

    def __getitem__(self, index: slice | Tensor) -> SemanticMap:
        return self._each_tensor(lambda tensor: tensor[index])

    @property
    def size(self) -> Size:
        return self.label.shape[1], self.label.shape[2]

    @property
    def device(self) -> torch.device:
        return self.label.device

    @property
    def channels(self) -> int:
        """Channels of the one-hot form: one for each class, and one for edges if there are any."""
        return self.num_classes + (self.edge is not None)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> SemanticMap:
        return self._each_tensor(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SemanticMap:
        return self._each_tensor(Tensor.pin_memory)

    def _each_tensor(self, change: Callable[[Tensor], Tensor]) -> SemanticMap:
        return replace(self, label=change(self.label), edge=None if self.edge is None else change(self.edge))

    def drop(self, dropped: Tensor) -> SemanticMap:
        """Turn the maps of `dropped` ([N] booleans) into null maps, edges included."""
        nulled = dropped.to(self.device).view(-1, 1, 1)
        return replace(
            self,
            label=self.label.masked_fill(nulled, self.num_classes),
            edge=None if self.edge is None else self.edge & ~nulled,
        )

    def without(self, classes: Sequence[int]) -> SemanticMap:
        """Turn the pixels of `classes` into null pixels; edges stay."""
        nulled = torch.isin(self.label.long(), torch.tensor(classes, dtype=torch.int64, device=self.device))
        return replace(self, label=self.label.masked_fill(nulled, self.num_classes))

    def null(self) -> SemanticMap:
        return self.drop(torch.ones(len(self), dtype=torch.bool))

    def resize(self, size: Size) -> SemanticMap:
        """Scale to `size` (height, width) by the rule of `F.interpolate(mode="nearest")`."""
        if tuple(size) == self.size:
            return self
        rows, columns = (
            torch.arange(new, device=self.device) * old // new for new, old in zip(size, self.size, strict=True)
        )
        return self._each_tensor(lambda tensor: tensor[:, rows[:, None], columns[None, :]])

    def one_hot(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return [N, channels, H, W]: one channel for each class (null pixels are zero in all), then the edges."""
        label = self.label.long()
        encoded = torch.zeros(len(self), self.num_classes + 1, *self.size, dtype=dtype, device=self.device)
        encoded.scatter_(1, label[:, None], 1)
        if self.edge is None:
            return encoded[:, :-1]
        encoded[:, -1] = self.edge
        return encoded

    @staticmethod
    def cat(conditions: Sequence[SemanticMap]) -> SemanticMap:
        first = conditions[0]
        assert all(maps.num_classes == first.num_classes for maps in conditions)
        edge = None if first.edge is None else torch.cat([maps.edge for maps in conditions])
        return replace(first, label=torch.cat([maps.label for maps in conditions]), edge=edge)
