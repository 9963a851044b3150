"""Objects of images, a class and a box each, and their crops: what the metrics of layouts compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from evaluations.sets import Images, Indices, Labels

Boxes = NDArray[np.float64]
"""[K, 4]: x0, y0, x1, y1 as shares of the width and the height of an image."""


@dataclass(frozen=True, eq=False)
class ImageObjects:
    """The objects of one image: classes [K] int64 and boxes [K, 4]; its background is none."""

    classes: Indices
    boxes: Boxes

    def __post_init__(self) -> None:
        assert self.boxes.shape == (len(self.classes), 4)

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def areas(self) -> NDArray[np.float64]:
        """[K], the share of the image that each box has."""
        return (self.boxes[:, 2] - self.boxes[:, 0]) * (self.boxes[:, 3] - self.boxes[:, 1])

    @property
    def front(self) -> Indices:
        """[K], from the smallest object to the largest; of equal ones the earlier one is first."""
        return np.argsort(self.areas, kind="stable")


def mirrored_objects(objects: ImageObjects, flip_pairs: Iterable[tuple[int, int]]) -> ImageObjects:
    """Return the objects of an image as a mirror shows them; the classes of `flip_pairs` change places."""
    seen_as = {one: other for pair in flip_pairs for one, other in (pair, pair[::-1])}
    classes = [seen_as.get(class_id, class_id) for class_id in objects.classes.tolist()]
    x0, y0, x1, y1 = objects.boxes.T
    return ImageObjects(np.array(classes, np.int64), np.stack([1 - x1, y0, 1 - x0, y1], axis=1))


@dataclass(frozen=True)
class LayoutSets:
    """The objects of all images of `EvaluationSets`; training is None where those were not read.

    predicted: whether the masks of the samples are what a model says of its objects.
    null: the samples drawn without their objects, uint8 [N, H, W, 3]; None: there are none.
    null_kind: in words, how these were drawn.
    """

    training: tuple[ImageObjects, ...] | None
    test: tuple[ImageObjects, ...]
    samples: tuple[ImageObjects, ...]
    predicted: bool = False
    null: Images | None = None
    null_kind: str = ""


def pixels_of(box: NDArray[np.float64], size: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of an image of `size` whose middles a box [4] has, at least one of each."""
    spans = []
    for low, high, count in ((box[1], box[3], size[0]), (box[0], box[2], size[1])):
        start = int(np.clip(np.floor(low * count + 0.5), 0, count - 1))
        spans.append(slice(start, int(np.clip(np.floor(high * count + 0.5), start + 1, count))))
    return spans[0], spans[1]


def filled_boxes(objects: ImageObjects, size: tuple[int, int], background: int) -> Labels:
    """Return the label map [H, W] in which every box is full of its class, smaller ones in front."""
    label = np.full(size, background, np.int64)
    for index in objects.front[::-1]:
        label[pixels_of(objects.boxes[index], size)] = objects.classes[index]
    return label


@dataclass(frozen=True, eq=False)
class Crops:
    """Crops uint8 [M, S, S, 3] of the boxes of objects, and their classes [M]."""

    images: Images
    classes: Indices

    def __len__(self) -> int:
        return len(self.classes)


def crops_of(images: Images, objects: Sequence[ImageObjects], side: int) -> Crops:
    """Return the boxes of images [N, H, W, 3], resized to `side` x `side` pixels (bilinear, antialiased)."""
    found = []
    for image, each in zip(images, objects, strict=True):
        for box in each.boxes:
            rows, columns = pixels_of(box, image.shape[:2])
            pixels = torch.from_numpy(np.ascontiguousarray(image[rows, columns])).permute(2, 0, 1)[None]
            found.append(interpolate(pixels.float(), (side, side), mode="bilinear", antialias=True).round().byte())
    pixels = torch.cat(found).permute(0, 2, 3, 1).numpy() if found else np.empty((0, side, side, 3), np.uint8)
    return Crops(np.ascontiguousarray(pixels), np.concatenate([np.empty(0, np.int64), *(o.classes for o in objects)]))
