"""Whole images of differing sizes and their label maps in memory: what models train on by crops and are tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluations.sets import Images, Labels


@dataclass(frozen=True, eq=False)
class WholeImages:
    """Images [H, W, 3], their label maps [H, W] and a name for each; good images are background everywhere."""

    images: tuple[Images, ...]
    labels: tuple[Labels, ...]
    names: tuple[str, ...]
    num_classes: int

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.labels) == len(self.names)
        for image, label in zip(self.images, self.labels, strict=True):
            assert image.dtype == np.uint8
            assert image.shape == (*label.shape, 3)
            assert label.size > 0
            assert label.dtype.kind in "iu"
            assert label.min() >= 0
            assert label.max() <= self.num_classes

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of all sizes, pixels and labels, in their order."""
        content = sha256(str((self.num_classes, [label.shape for label in self.labels])).encode())
        for image, label in zip(self.images, self.labels, strict=True):
            content.update(image.tobytes())
            content.update(label.astype("<i4").tobytes())
        return content.hexdigest()[:16]

    @property
    def bytes(self) -> int:
        """The memory of all pixels and labels, in which an array may use a value many times."""
        return sum(_once(array).nbytes for array in (*self.images, *self.labels))

    def __getstate__(self) -> dict[str, Any]:
        """Return what is sent to another process, such as one that loads data."""
        parts = {"images": self.images, "labels": self.labels}
        sent = {name: [(_once(array), array.shape) for array in arrays] for name, arrays in parts.items()}
        return {**sent, "names": self.names, "num_classes": self.num_classes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = {
            name: tuple(np.broadcast_to(array, shape) for array, shape in state[name]) for name in ("images", "labels")
        }
        self.__dict__.update({**state, **arrays})

    def subset(self, indices: Sequence[int] | NDArray[np.integer]) -> WholeImages:
        """Return the images at `indices`, in that order; an index may occur several times."""
        chosen = np.asarray(indices, dtype=np.int64).tolist()
        images, labels, names = (
            tuple(part[index] for index in chosen) for part in (self.images, self.labels, self.names)
        )
        return WholeImages(images, labels, names, self.num_classes)

    def joined(self, other: WholeImages) -> WholeImages:
        """Return the images of both, this set's first."""
        assert other.num_classes == self.num_classes
        return WholeImages(
            self.images + other.images, self.labels + other.labels, self.names + other.names, self.num_classes
        )


def _once(array: NDArray[Any]) -> NDArray[Any]:
    """Return the part of an array that has memory of its own: without axes along which one value stands for all."""
    return array[tuple(slice(None) if stride else slice(1) for stride in array.strides)]
