"""Training by crops: square windows of whole images, most of them on foreground, classes alike.

A batch is a function of the images, the plan, the seed and the step alone. So a resumed training sees the batches that
it would have seen, and two settings draw with the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from evaluations.segmentation.augmentation import ROTATION, SCALE, Relabel, standard_augmentation
from evaluations.sets import Images, Indices, Labels
from evaluations.whole_images import WholeImages

_EIGHT_NEIGHBORS = np.ones((3, 3), dtype=bool)
_ATTEMPTS = 10  # at augmentations that leave the class of the crop inside it

_TURNED = math.cos(math.radians(ROTATION)) + math.sin(math.radians(ROTATION))
REACH = _TURNED / SCALE[0]
"""How many times as large as a crop the square is from which it is augmented: by the largest turn and the smallest
scale, so that no pixel of the crop comes from outside of it."""


@dataclass(frozen=True)
class CropPlan:
    """Which crops are drawn: squares of `size` pixels.

    focus: the share that lies on foreground, of `classes` where these are given; the others lie anywhere. augment: by
    the usual augmentation, whose `vertical_flip` and `relabel` these are.
    """

    size: int
    focus: float = 0.7
    augment: bool = True
    vertical_flip: bool = True
    relabel: Relabel | None = None
    classes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        assert self.size >= 1
        assert 0 <= self.focus <= 1


@dataclass(frozen=True)
class Late:
    """From `step` on images are drawn by these weights: a curriculum, such as synthetic first, real last."""

    step: int
    weights: NDArray[np.float64]


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """The batches of a training by their step: images uint8 [N, S, S, 3], labels int64 [N, S, S].

    A focused crop draws one of the plan's classes that the images have (not class 0), then an image that shows it, one
    of its components there and a pixel of that, all evenly, and lies anywhere around this pixel. Others lie anywhere.
    """

    def __init__(
        self,
        images: WholeImages,
        plan: CropPlan,
        *,
        batch_size: int,
        seed: int,
        weights: Sequence[float] | NDArray[np.floating] | None = None,
        late: Late | None = None,
    ) -> None:
        """weights: how often each image is drawn in relation to the others, also among those of a class."""
        assert len(images) > 0
        self.images, self.plan, self.batch_size, self.seed, self.late = images, plan, batch_size, seed, late
        self.weights = np.ones(len(images)) if weights is None else np.asarray(weights, np.float64)
        self._components = _components(images, plan.classes)
        self._chances = _Chances.of(self.weights, self._components)
        self._late = self._chances if late is None else _Chances.of(late.weights, self._components)
        assert all(each.weights.shape == (len(images),) for each in (self._chances, self._late))

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes on which focused crops lie, before those of `late`."""
        return tuple(self._chances.shows)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        crops = [self._crop(step, position) for position in range(self.batch_size)]
        images = torch.stack([image for image, _ in crops]).permute(0, 2, 3, 1)
        return images.contiguous(), torch.stack([label for _, label in crops])

    def _crop(self, step: int, position: int) -> tuple[Tensor, Tensor]:
        """Return an image uint8 [3, S, S] and its label map int64 [S, S]."""
        rng = np.random.default_rng([self.seed, step, position])
        chances = self._chances if self.late is None or step < self.late.step else self._late
        index, class_id, pixel = self._target(chances, rng)
        for _ in range(_ATTEMPTS):
            image, label = self._cut(index, pixel, rng)
            if class_id is None or self._shows_class(label, class_id):
                break
        return image, label

    def _shows_class(self, label: Tensor, class_id: int) -> bool:
        """Tell whether a crop shows a class, under the name that it has in a mirror if it was flipped."""
        relabel = self.plan.relabel
        mirrored = class_id if relabel is None else int(relabel(torch.tensor(class_id)))
        return bool(((label == class_id) | (label == mirrored)).any())

    def _target(self, chances: _Chances, rng: np.random.Generator) -> tuple[int, int | None, tuple[int, int] | None]:
        """Draw an image and, of a focused crop, a class and one of its pixels (row, column)."""
        # All numbers are drawn always: those that follow are then the same whatever these are.
        focus, which_class, which_image, which_component, which_pixel = rng.random(5).tolist()
        if focus >= self.plan.focus or not chances.shows:
            return chances.image(np.arange(len(self.images)), which_image), None, None
        class_id = list(chances.shows)[int(which_class * len(chances.shows))]
        index = chances.image(chances.shows[class_id], which_image)
        components = self._components[index, class_id]
        pixels = components[int(which_component * len(components))]
        pixel = int(pixels[int(which_pixel * len(pixels))])
        row, column = divmod(pixel, self.images.labels[index].shape[1])
        return index, class_id, (row, column)

    def _cut(self, index: int, pixel: tuple[int, int] | None, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        size, label = self.plan.size, self.images.labels[index]
        draws = rng.random(2)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        top, left = (
            _start(length, size, None if pixel is None else pixel[axis], draws[axis])
            for axis, length in enumerate(label.shape)
        )
        # With one pixel more than what it takes, which the interpolation reads.
        margin = math.ceil(size * (REACH - 1) / 2) + 1 if self.plan.augment else 0
        box = (top - margin, left - margin, size + 2 * margin)
        pixels = torch.from_numpy(cut_image(self.images.images[index], *box)).permute(2, 0, 1)
        ids = torch.from_numpy(cut_label(label, *box, self.images.num_classes))
        if self.plan.augment:
            pixels, ids = standard_augmentation(
                pixels,
                ids,
                generator,
                num_classes=self.images.num_classes,
                vertical_flip=self.plan.vertical_flip,
                relabel=self.plan.relabel,
                translation=0,  # the crop is drawn at a random place
                margin=margin,
            )
        return pixels, ids


@dataclass(frozen=True)
class _Chances:
    """How often images are drawn, and by class those that show it; without classes that none shows which is drawn."""

    weights: NDArray[np.float64]
    shows: dict[int, Indices]

    @classmethod
    def of(cls, weights: NDArray[np.float64], components: Collection[tuple[int, int]]) -> _Chances:
        """components: (index of an image, class) of all classes but 0."""
        shows: dict[int, Indices] = {}
        for class_id in sorted({class_id for _, class_id in components}):
            shown = np.array([index for index, own in components if own == class_id])
            if weights[shown].sum() > 0:
                shows[class_id] = shown
        return cls(weights, shows)

    def image(self, among: Indices, draw: float) -> int:
        """Return one of the images by their weights; draw: in 0..1."""
        until = self.weights[among].cumsum()
        return int(among[min(int(np.searchsorted(until, draw * until[-1], side="right")), len(among) - 1)])


def _components(images: WholeImages, classes: Sequence[int] | None = None) -> dict[tuple[int, int], list[Indices]]:
    """Return the 8-connected components of `classes`, all but 0 for None, by (index of the image, class): flat indices
    of pixels.
    """
    components = {}
    for index, label in enumerate(images.labels):
        if not label.any():  # a good image, which need not be sorted
            continue
        present = np.unique(label)
        wanted = (present > 0) & (present < images.num_classes) if classes is None else np.isin(present, classes)
        for class_id in present[wanted].tolist():
            numbered, _ = ndimage.label(label == class_id, _EIGHT_NEIGHBORS)
            pixels = np.flatnonzero(numbered)
            of_component = numbered.ravel()[pixels]
            order = np.argsort(of_component, kind="stable")
            ends = np.flatnonzero(np.diff(of_component[order])) + 1
            components[index, class_id] = np.split(pixels[order], ends)
    return components


def _start(length: int, size: int, pixel: int | None, draw: float) -> int:
    """Return where a crop of `size` begins on an axis, around `pixel` or anywhere; inside the image if that is larger.

    A smaller image lies anywhere in its crop.
    """
    low, high = min(0, length - size), max(0, length - size)
    if pixel is not None and length > size:
        low, high = max(low, pixel - size + 1), min(high, pixel)
    return low + int(draw * (high - low + 1))


def cut_image(image: Images, top: int, left: int, size: int) -> Images:
    """Return a square of `size` pixels of an image [H, W, 3]; beyond the borders the image is reflected."""
    rows, columns = (
        _reflected(np.arange(start, start + size), length)
        for start, length in zip((top, left), image.shape[:2], strict=True)
    )
    top, left = rows.min(), columns.min()
    # Of the part alone: `take` copies what is not in the order of its memory. Twice is faster than one index for both.
    part = image[top : rows.max() + 1, left : columns.max() + 1]
    return part.take(rows - top, axis=0).take(columns - left, axis=1)


def cut_label(label: Labels, top: int, left: int, size: int, outside: int) -> NDArray[np.int64]:
    """Return a square of `size` pixels of a label map [H, W], int64; `outside` beyond the borders."""
    square = np.full((size, size), outside, np.int64)
    inside = label[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)]
    down, across = max(-top, 0), max(-left, 0)
    square[down : down + inside.shape[0], across : across + inside.shape[1]] = inside
    return square


def _reflected(indices: Indices, length: int) -> Indices:
    """Return indices of an axis, those outside it mirrored at the centers of its first and last pixels."""
    period = max(2 * (length - 1), 1)
    indices = indices % period
    return np.where(indices < length, indices, period - indices)
