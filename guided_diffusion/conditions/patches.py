"""The distinct neighbourhoods of label maps, numbered exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """The distinct 5x5 neighbourhoods of a batch of label maps, and which of them every pixel has.

    Two 3x3 convolutions with zero padding see 5x5 pixels: nine inner positions, each with its 3x3 neighbours. Inner
    positions outside the image are zero in the hidden layer whatever lies around them. So a 5x5 neighbourhood is nine
    numbers, each that of a 3x3 neighbourhood or of "outside". Numbers are exact: equal ones are equal neighbourhoods.

    label: [K3, 9] int64, the distinct 3x3 neighbourhoods row by row; pixels outside the image have the null id.
    edge: [K3, 9] booleans, or None for maps without edges.
    parts: [K, 9] int64 in 0..K3, the 5x5 neighbourhoods row by row as numbers of 3x3 ones; K3 is outside the image.
    index: [N, H, W] int64 in 0..K-1.
    null_index: [H, W] int64, the index of a null map, where null maps were counted in.
    """

    label: Tensor
    edge: Tensor | None
    parts: Tensor
    index: Tensor
    null_index: Tensor | None = None

    def __len__(self) -> int:
        """Return K."""
        return self.parts.shape[0]

    def each_tensor(self, change: Callable[[Tensor], Tensor]) -> Neighbourhoods:
        """Return the same with every tensor changed by `change`."""
        return replace(self, **{name: change(value) for name, value in vars(self).items() if value is not None})


def number_neighbourhoods(label: Tensor, edge: Tensor | None, num_classes: int) -> Neighbourhoods:
    """Return the neighbourhoods of `label` [N, H, W] in 0..num_classes and `edge` [N, H, W] booleans or None."""
    outside = 2 * (num_classes + 1)
    states = 2 * label.long() + (0 if edge is None else edge)
    three, windows = _number_windows(F.pad(states, (1, 1, 1, 1), value=outside), _THREE_BY_THREE, outside + 1)
    # The four diagonal ones of nine 3x3 neighbourhoods cover all 25 pixels; in an image one pixel high or wide they
    # would lie outside it.
    k3, (_, height, width) = len(windows), label.shape
    covering = [(dy, dx) for dy in ((0, 2) if height > 1 else (1,)) for dx in ((0, 2) if width > 1 else (1,))]
    index, parts = _number_windows(F.pad(three, (1, 1, 1, 1), value=k3), covering, k3 + 1)
    return Neighbourhoods(
        label=(windows // 2).clamp(max=num_classes),
        edge=None if edge is None else windows % 2 == 1,
        parts=parts,
        index=index,
    )


_THREE_BY_THREE = [(dy, dx) for dy in range(3) for dx in range(3)]


def _number_windows(padded: Tensor, telling: Sequence[tuple[int, int]], base: int) -> tuple[Tensor, Tensor]:
    """Number the distinct 3x3 windows of `padded` [N, H + 2, W + 2], integers in 0..base-1.

    telling: the positions (row, column) in a window by which two windows are told apart.

    Returns the number of each pixel's window [N, H, W] and the windows [K, 9], row by row.
    """
    n, height, width = padded.shape[0], padded.shape[1] - 2, padded.shape[2] - 2
    key, span = torch.zeros((), dtype=torch.int64), 1
    for dy, dx in telling:
        if span * base >= 2**63:  # numbering what there is so far makes room for more
            distinct, key = torch.unique(key, return_inverse=True)
            span = len(distinct)
        key = key * base + padded[:, dy : dy + height, dx : dx + width]
        span *= base
    distinct, index = torch.unique(key, return_inverse=True)
    pixels = torch.arange(index.numel(), device=index.device)
    example = torch.empty_like(distinct).scatter_(0, index.flatten(), pixels)
    image, rest = example // (height * width), example % (height * width)
    corner = (image * (height + 2) + rest // width) * (width + 2) + rest % width
    offsets = torch.tensor([dy * (width + 2) + dx for dy, dx in _THREE_BY_THREE], device=index.device)
    return index.view(n, height, width), padded.flatten()[corner[:, None] + offsets]
