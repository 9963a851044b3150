"""The labeled pixels of several images, and those that a training step draws of them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from guided_diffusion.labeling.maps import ImageMaps, corners_at
from guided_diffusion.runtime.errors import DataError


@dataclass(frozen=True, eq=False)
class Pixels:
    """Some pixels, [P] int64 each: the number of the image, row * width + column in it, and the class."""

    image: Tensor
    position: Tensor
    label: Tensor


class PixelPool:
    """All pixels of label maps whose label is a class; every other value is ignored.

    labels: integers [H, W] of each image, which may differ in size. `counts`: pixels of each class [classes].
    """

    def __init__(self, labels: Sequence[Tensor], classes: int):
        self.classes = classes
        self.sizes = [tuple(label.shape) for label in labels]
        self._starts = torch.tensor([0, *(label.numel() for label in labels)]).cumsum(0)
        flat = torch.cat([label.flatten() for label in labels]).long()
        self._order, self.counts = _by_class(flat, torch.ones_like(flat, dtype=torch.bool), classes)
        rims = torch.cat([_rims(label, classes).flatten() for label in labels])
        self._rim_order, self._rim_counts = _by_class(flat, rims, classes)
        if len(self) == 0:
            raise DataError.of("labeled images", "every pixel is ignored", "label some pixels with a class")

    @property
    def digest(self) -> int:
        """A checksum of the labels: of which pixels have which class."""
        return zlib.crc32(self._order.numpy().tobytes(), zlib.crc32(self.counts.numpy().tobytes()))

    def __len__(self) -> int:
        return len(self._order)

    def take(self, numbers: Tensor) -> Pixels:
        """Return the pixels of `numbers` [P] in 0..len - 1."""
        return self._pixels(self._order[numbers], self._class_of(numbers, self.counts))

    def uniform(self, count: int, generator: torch.Generator) -> Pixels:
        """Return `count` pixels drawn with replacement, each as likely as any other."""
        return self.take(torch.randint(len(self), (count,), generator=generator))

    def balanced(self, count: int, generator: torch.Generator) -> Pixels:
        """Return `count` pixels: half drawn uniformly, a quarter by class, a quarter by class on the rims of regions.

        By class: each class that is there is as likely as any other, and so is each of its pixels.
        """
        uniform, by_class, by_rim = self._shares(count)
        parts = [
            self.uniform(uniform, generator),
            self._by_class(by_class, self._order, self.counts, generator),
            self._by_class(by_rim, self._rim_order, self._rim_counts, generator),
        ]
        return Pixels(*(torch.cat([getattr(part, name) for part in parts]) for name in ("image", "position", "label")))

    def log_ratio(self, count: int) -> Tensor:
        """Return log(drawn / true frequency) [classes] of `balanced(count)`, 0 for a class that is not there.

        Added to the logits in training, it makes the probabilities without it those of the true frequencies (Menon et
        al. 2021, "Long-tail learning via logit adjustment").
        """
        uniform, by_class, by_rim = self._shares(count)
        true = self.counts.double() / len(self)
        drawn = uniform * true
        for share, counts in ((by_class, self.counts), (by_rim, self._rim_counts)):
            drawn += share * (counts > 0) / max(int((counts > 0).sum()), 1)
        return torch.where(true > 0, torch.log(drawn / count / true), 0).float()

    def _shares(self, count: int) -> tuple[int, int, int]:
        by_class = count // 4
        by_rim = by_class if len(self._rim_order) else 0  # one class alone has no rims
        return count - by_class - by_rim, by_class, by_rim

    def _by_class(self, count: int, order: Tensor, counts: Tensor, generator: torch.Generator) -> Pixels:
        present = counts.nonzero()[:, 0]
        if count == 0:
            return self.take(torch.empty(0, dtype=torch.int64))
        label = present[torch.randint(len(present), (count,), generator=generator)]
        within = (torch.rand(count, generator=generator, dtype=torch.float64) * counts[label]).long()
        return self._pixels(order[(counts.cumsum(0) - counts)[label] + within], label)

    def _class_of(self, numbers: Tensor, counts: Tensor) -> Tensor:
        return torch.searchsorted(counts.cumsum(0), numbers, right=True)

    def _pixels(self, flat: Tensor, label: Tensor) -> Pixels:
        image = torch.searchsorted(self._starts, flat.long(), right=True) - 1
        return Pixels(image, flat - self._starts[image], label)


def _by_class(flat: Tensor, chosen: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the chosen labeled pixels, sorted by class, and how many there are of each class."""
    of_class = [((flat == number) & chosen).nonzero()[:, 0].int() for number in range(classes)]
    return torch.cat(of_class), torch.tensor([len(each) for each in of_class])


def _rims(label: Tensor, classes: int) -> Tensor:
    """Return where a label map [H, W] has another class in the next row or column on either side."""
    label = label.long()
    labeled = (label >= 0) & (label < classes)
    rims = torch.zeros_like(labeled)
    for ahead, behind in (((slice(1, None),), (slice(-1),)), ((..., slice(1, None)), (..., slice(-1)))):
        differs = (label[ahead] != label[behind]) & labeled[ahead] & labeled[behind]
        rims[ahead] |= differs
        rims[behind] |= differs
    return rims


def read_features(images: Sequence[ImageMaps], pixels: Pixels, out: Tensor) -> None:
    """Write the features of pixels into `out` [P, dim], float32."""
    order = pixels.image.argsort(stable=True)
    numbers, counts = pixels.image[order].unique_consecutive(return_counts=True)
    parts = zip(numbers.tolist(), order.split(counts.tolist()), strict=True)
    # Images of one size, as tiles are, have their corners computed at once: one by one that is most of the time.
    for (size, sides), group in groupby(parts, lambda part: (images[part[0]].size, tuple(images[part[0]].sides))):
        members = list(group)
        corners = corners_at(pixels.position[torch.cat([chosen for _, chosen in members])], size, sides)
        start = 0
        for number, chosen in members:
            own = slice(start, start + len(chosen))
            start += len(chosen)
            features = images[number].read_at(
                {side: (index[own], weight[own]) for side, (index, weight) in corners.items()}
            )
            out[chosen.to(out.device)] = features.to(out.device)


def standardization(images: Sequence[ImageMaps], pixels: Pixels, batch: int = 1024) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / deviation [dim], float32, of the features of pixels; a constant feature has scale 1."""
    dim = images[0].dim
    total, squares = torch.zeros(2, dim, dtype=torch.float64)
    for start in range(0, len(pixels.image), batch):
        part = Pixels(*(each[start : start + batch] for each in (pixels.image, pixels.position, pixels.label)))
        features = torch.empty(len(part.image), dim)
        read_features(images, part, features)
        features = features.double()
        total += features.sum(dim=0)
        squares += features.square().sum(dim=0)
    mean = total / len(pixels.image)
    variance = squares / len(pixels.image) - mean.square()
    constant = variance <= 1e-10 * (1 + mean.square())
    return mean.float(), torch.where(constant, 1, variance.clamp(min=1e-30).rsqrt()).float()
