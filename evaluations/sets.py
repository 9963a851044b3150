"""Images and their label maps as arrays: what all metrics take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
"""[..., H, W, 3], 0..255; gray images have three equal channels."""
Labels = NDArray[np.integer]
"""[..., H, W] in `0..num_classes`; `num_classes` marks ignored pixels."""
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class ImageSet:
    """Images [N, H, W, 3] of one size, their label maps [N, H, W] and a name for each."""

    images: Images
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

    @cached_property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of all pixels and labels."""
        content = sha256(self.images.tobytes())
        content.update(self.labels.astype(np.int32).tobytes())
        return content.hexdigest()[:16]

    def subset(self, indices: Sequence[int] | NDArray[np.integer]) -> ImageSet:
        """Return the images at `indices`, in that order; an index may occur several times."""
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
