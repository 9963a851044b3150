"""Images and their label maps as arrays: what all metrics take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Labels = NDArray[np.integer]


@dataclass(frozen=True)
class ImageSet:
    """Images of one size with their label maps.

    images: uint8 [N, H, W, 3]; grey images have three equal channels.
    labels: integers [N, H, W] in `0..num_classes`; `num_classes` marks pixels of no class, which no score counts.
    names: one for each image.
    """

    images: Pixels
    labels: Labels
    names: tuple[str, ...]
    num_classes: int

    def __post_init__(self) -> None:
        assert self.images.dtype == np.uint8
        assert self.images.shape == (*self.labels.shape, 3)
        assert self.labels.dtype.kind in "iu"
        assert len(self.names) == len(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Sequence[int] | NDArray[np.integer]) -> ImageSet:
        """Return the images at `indices`, in that order; an index may come more than once."""
        chosen = np.asarray(indices, dtype=np.int64)
        names = tuple(self.names[index] for index in chosen)
        return ImageSet(self.images[chosen], self.labels[chosen], names, self.num_classes)

    def joined(self, other: ImageSet) -> ImageSet:
        """Return the images of both, this set's first."""
        assert other.num_classes == self.num_classes
        return ImageSet(
            np.concatenate([self.images, other.images]),
            np.concatenate([self.labels, other.labels]),
            self.names + other.names,
            self.num_classes,
        )
