"""SemanticMap: the condition that data, diffusion and models share, and the numbering of its neighbourhoods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]  # height and width in pixels


@dataclass(frozen=True)
class SemanticMap:
    """A batch of label maps, optionally with instance edges.

    label: [N, H, W] integers in `0..num_classes`. `num_classes` itself is the *null* id: no class is
        known there (a dropped condition, an ignored pixel, a pixel masked by label diffusion); its
        one-hot vector is all zeros.
    num_classes: number of real classes.
    edge: [N, H, W] booleans, True where a pixel's instance differs from a 4-neighbour's; None for
        models without an edge channel.
    numbered: the neighbourhoods at some sizes, where they were counted already (`with_numbers`).
    """

    label: Tensor
    num_classes: int
    edge: Tensor | None = None
    numbered: Mapping[Size, Neighbourhoods] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        assert self.label.ndim == 3, "label must be of shape [N, H, W]"
        assert not self.label.is_floating_point(), "label must be integers"
        assert self.edge is None or (self.edge.shape == self.label.shape and self.edge.dtype == torch.bool)

    def __len__(self) -> int:
        return self.label.shape[0]

    def __getitem__(self, index: slice | Tensor) -> SemanticMap:
        """Return the maps that `index` (a slice or an index tensor) selects from the batch."""
        return replace(
            self,
            label=self.label[index],
            edge=None if self.edge is None else self.edge[index],
            numbered={size: replace(found, index=found.index[index]) for size, found in self.numbered.items()},
        )

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        return self.label.shape[1], self.label.shape[2]

    @property
    def channels(self) -> int:
        """Channels of the one-hot form: the classes, and one more for edges."""
        return self.num_classes + (self.edge is not None)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> SemanticMap:
        """Return the same maps on `device`."""
        return self._each_tensor(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SemanticMap:
        """Return the same maps in page-locked memory, from which a GPU copies in the background."""
        return self._each_tensor(Tensor.pin_memory)

    def _each_tensor(self, change: Callable[[Tensor], Tensor]) -> SemanticMap:
        return replace(
            self,
            label=change(self.label),
            edge=None if self.edge is None else change(self.edge),
            numbered={size: found.each_tensor(change) for size, found in self.numbered.items()},
        )

    def drop(self, dropped: Tensor) -> SemanticMap:
        """Return the maps with every image of `dropped` ([N] booleans) turned into the null map, edges included."""
        gone = dropped.to(self.label.device).view(-1, 1, 1)
        return replace(
            self,
            label=self.label.masked_fill(gone, self.num_classes),
            edge=None if self.edge is None else self.edge & ~gone,
            numbered={
                size: replace(found, index=torch.where(gone, found.null_index, found.index))
                for size, found in self.numbered.items()
            },
        )

    def without(self, classes: Sequence[int]) -> SemanticMap:
        """Return the maps with the pixels of `classes` null; edges stay, and what was counted is left behind."""
        gone = torch.isin(self.label.long(), torch.tensor(classes, dtype=torch.int64, device=self.label.device))
        return replace(self, label=self.label.masked_fill(gone, self.num_classes), numbered={})

    def null(self) -> SemanticMap:
        """Return null maps of the same shape: the unconditional branch of classifier-free guidance."""
        return self.drop(torch.ones(len(self), dtype=torch.bool))

    def resize(self, size: Size) -> SemanticMap:
        """Return the maps at `size` (height, width) by the rule of `F.interpolate(mode="nearest")`."""
        if tuple(size) == self.size:
            return self
        rows, columns = (
            torch.arange(new, device=self.label.device) * old // new for new, old in zip(size, self.size, strict=True)
        )
        pick = (slice(None), rows[:, None], columns[None, :])
        return replace(self, label=self.label[pick], edge=None if self.edge is None else self.edge[pick], numbered={})

    def with_numbers(self, sizes: Iterable[Size]) -> SemanticMap:
        """Return the maps with their neighbourhoods at `sizes` counted, null maps included, so that `drop` keeps them.

        Counting is the work of a data loader's processes; what was not counted is counted when it is asked for.
        """
        counted = SemanticMap.cat([self, replace(self[:1], numbered={}).null()])
        numbered = {}
        for size in sizes:
            found = counted.neighbourhoods(size)
            numbered[size] = replace(found, index=found.index[:-1], null_index=found.index[-1])
        return replace(self, numbered=numbered)

    def neighbourhoods(self, size: Size) -> Neighbourhoods:
        """Return the neighbourhoods of the maps at `size` (height, width)."""
        if size in self.numbered:
            return self.numbered[size]
        resized = self.resize(size)
        return number_neighbourhoods(resized.label, resized.edge, self.num_classes)

    def one_hot(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return [N, channels, H, W]: one channel a class (null pixels are zero in all), then the edges if any."""
        label = self.label.long()
        encoded = torch.zeros(len(self), self.num_classes + 1, *self.size, dtype=dtype, device=label.device)
        encoded.scatter_(1, label[:, None], 1)
        if self.edge is None:
            return encoded[:, :-1]
        encoded[:, -1] = self.edge
        return encoded

    @staticmethod
    def cat(maps: Sequence[SemanticMap]) -> SemanticMap:
        """Concatenate maps of one size and class count along the batch; what was counted is left behind."""
        first = maps[0]
        assert all(m.num_classes == first.num_classes for m in maps)
        edge = None if first.edge is None else torch.cat([m.edge for m in maps])
        return replace(first, label=torch.cat([m.label for m in maps]), edge=edge, numbered={})


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
