"""KnownRegion: images of which all but a hole is given, for networks that fill it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class KnownRegion:
    """N images and which of their pixels are to be filled."""

    image: Tensor
    """[N, C, H, W] float32 in [-1, 1]; what it has inside the hole is never looked at."""
    hole: Tensor
    """[N, H, W] booleans."""

    def __post_init__(self) -> None:
        assert self.hole.dtype == torch.bool
        assert self.image.shape[0] == self.hole.shape[0]
        assert self.image.shape[2:] == self.hole.shape[1:]

    @classmethod
    def nothing(cls, count: int, shape: Sequence[int]) -> KnownRegion:
        """Return `count` images of `shape` (C, H, W) that are holes everywhere."""
        return cls(torch.zeros(count, *shape), torch.ones(count, *shape[1:], dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.hole)

    def __getitem__(self, index: slice | Tensor) -> KnownRegion:
        return KnownRegion(self.image[index], self.hole[index])

    def to(self, device: torch.device | str) -> KnownRegion:
        return KnownRegion(self.image.to(device), self.hole.to(device))

    def channels(self) -> Tensor:
        """Return what the network sees beside the noisy image, [N, C + 1, H, W]: the image, 0 in the hole; the hole."""
        hole = self.hole[:, None]
        return torch.cat([self.image.masked_fill(hole, 0), hole.to(self.image.dtype)], dim=1)

    def keep(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return `x0` [N, C, H, W] with the known pixels in place: a hook of sampling."""
        return torch.where(self.hole[:, None], x0, self.image)
