"""The distinct 3x3 and 5x5 patches of label maps, numbered exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.conditions.base import Size
from guided_diffusion.conditions.semantic_map import SemanticMap


@dataclass(frozen=True, eq=False)
class Patches:
    """The distinct 5x5 patches of a batch of label maps at one size, and which of them surrounds every pixel.

    Two 3x3 convolutions with zero padding see 5x5 pixels: nine inner positions, each with a 3x3 patch. The hidden
    layer is zero at an inner position outside the image, whatever lies around it.
    """

    label: Tensor
    """[K3, 9] int64, the distinct 3x3 patches row by row; pixels outside the image have the null id."""
    edge: Tensor | None
    """[K3, 9] booleans; None for maps without edges."""
    patches_5x5: Tensor
    """[K, 9] int64 in 0..K3: for each 5x5 patch the ids of the 3x3 patches around its nine inner positions, row by row;
    K3 stands for an inner position outside the image."""
    index: Tensor
    """[N, H, W] int64 in 0..K-1, the id of each pixel's 5x5 patch."""
    null_index: Tensor | None = None
    """[H, W] int64, the index of a null map; only in a `PatchCache`."""

    def __len__(self) -> int:
        """Return K."""
        return self.patches_5x5.shape[0]

    def each_tensor(self, change: Callable[[Tensor], Tensor]) -> Patches:
        return replace(self, **{name: change(value) for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True, eq=False)
class PatchCache:
    """The patches of N maps at several sizes, and those of a null map, so that `drop` needs no new count."""

    patches: Mapping[Size, Patches]

    def __len__(self) -> int:
        return next(iter(self.patches.values())).index.shape[0]

    def __getitem__(self, index: slice | Tensor) -> PatchCache:
        return self._each(lambda patches: replace(patches, index=patches.index[index]))

    def at(self, size: Size) -> Patches | None:
        """Return the patches at `size`, None if they were not counted."""
        return self.patches.get(size)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PatchCache:
        return self._each(lambda patches: patches.each_tensor(lambda t: t.to(device, non_blocking=non_blocking)))

    def pin_memory(self) -> PatchCache:
        return self._each(lambda patches: patches.each_tensor(Tensor.pin_memory))

    def drop(self, dropped: Tensor) -> PatchCache:
        def with_null(patches: Patches) -> Patches:
            null = dropped.to(patches.index.device).view(-1, 1, 1)
            return replace(patches, index=torch.where(null, patches.null_index, patches.index))

        return self._each(with_null)

    def _each(self, change: Callable[[Patches], Patches]) -> PatchCache:
        return PatchCache({size: change(patches) for size, patches in self.patches.items()})


def precompute_patches(condition: SemanticMap, sizes: Iterable[Size]) -> PatchCache:
    """Return the patches of `condition` and of a null map at `sizes` (height, width)."""
    with_null = SemanticMap.cat([condition, condition[:1].null()])
    cache = PatchCache({size: number_patches(with_null, size) for size in sizes})
    return cache._each(lambda patches: replace(patches, index=patches.index[:-1], null_index=patches.index[-1]))


def number_patches(condition: SemanticMap, size: Size) -> Patches:
    """Return the patches of `condition` scaled to `size` (height, width)."""
    maps = condition.resize(size)
    outside = 2 * (maps.num_classes + 1)
    states = 2 * maps.label.long() + (0 if maps.edge is None else maps.edge)
    patch_ids_3x3, windows = _number_windows(F.pad(states, (1, 1, 1, 1), value=outside), _ALL_NINE, outside + 1)
    # The four 3x3 patches at the corners cover all 25 pixels; in an image one pixel high or wide they lie outside it.
    k3, (_, height, width) = len(windows), states.shape
    covering = [(dy, dx) for dy in ((0, 2) if height > 1 else (1,)) for dx in ((0, 2) if width > 1 else (1,))]
    index, patches_5x5 = _number_windows(F.pad(patch_ids_3x3, (1, 1, 1, 1), value=k3), covering, k3 + 1)
    return Patches(
        label=(windows // 2).clamp(max=maps.num_classes),
        edge=None if maps.edge is None else windows % 2 == 1,
        patches_5x5=patches_5x5,
        index=index,
    )


_ALL_NINE = [(dy, dx) for dy in range(3) for dx in range(3)]


def _number_windows(padded: Tensor, offsets: Sequence[tuple[int, int]], base: int) -> tuple[Tensor, Tensor]:
    """Number the distinct 3x3 windows of `padded` [N, H + 2, W + 2], integers in 0..base-1.

    offsets: the positions (row, column) in a window that are compared.
    Returns the number of each pixel's window [N, H, W] and the windows [K, 9], row by row.
    """
    n, height, width = padded.shape[0], padded.shape[1] - 2, padded.shape[2] - 2
    key, span = torch.zeros((), dtype=torch.int64), 1
    for dy, dx in offsets:
        if span * base >= 2**63:  # int64 would overflow: number the keys so far, which makes them small again
            distinct, key = torch.unique(key, return_inverse=True)
            span = len(distinct)
        key = key * base + padded[:, dy : dy + height, dx : dx + width]
        span *= base
    distinct, index = torch.unique(key, return_inverse=True)
    pixels = torch.arange(index.numel(), device=index.device)
    example = torch.empty_like(distinct).scatter_(0, index.flatten(), pixels)
    image, rest = example // (height * width), example % (height * width)
    corner = (image * (height + 2) + rest // width) * (width + 2) + rest % width
    within = torch.tensor([dy * (width + 2) + dx for dy, dx in _ALL_NINE], device=index.device)
    return index.view(n, height, width), padded.flatten()[corner[:, None] + within]
