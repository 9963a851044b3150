"""A whole dataset as arrays of one size, for metrics that compare all images at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from guided_diffusion.data.boxes.layouts import LayoutMaker
from guided_diffusion.data.condition_makers import ExampleKey
from guided_diffusion.data.datasets import SegmentationDataset
from guided_diffusion.data.intensity import ImageRange
from guided_diffusion.data.loader import collate_examples
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.data.visualize import Pixels, to_pixels

_CHUNK = 32  # images that are held as floating point numbers at a time


def load_arrays(
    pairs: Sequence[Pair],
    encoding: LabelEncoding,
    transform: JointTransform,
    image_channels: Literal[1, 3],
    *,
    image_range: ImageRange = "auto",
    progress: str = "",
) -> tuple[Pixels, np.ndarray]:
    """Return the images, uint8 [N, H, W, 3], and the label maps, [N, H, W] in `0..num_classes`, of N > 0 pairs.

    transform: without augmentation (`train=False`). progress: text of a progress bar; empty for none.
    Raises DataError for files that changed since they were scanned.
    """
    assert not transform.train
    dataset = SegmentationDataset(
        pairs, encoding, transform, image_channels=image_channels, image_range=image_range, cache_images=False
    )
    images, labels = [], []
    with tqdm(total=len(pairs), desc=progress, unit="image", disable=not progress) as bar:
        for start in range(0, len(pairs), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(pairs)))
            image, condition = collate_examples(dataset, chunk)
            images += to_pixels(image.numpy())
            labels.append(condition.label.numpy())
            bar.update(len(chunk))
    return np.stack(images), np.concatenate(labels)


class BoxedArrays(NamedTuple):
    """Images uint8 [N, H, W, 3], label maps [N, H, W] in `0..num_classes`, and the objects of each image.

    Pictures without a mask have no pixel of any class. objects: classes [K] int64, boxes [K, 4] in shares.
    """

    images: Pixels
    labels: np.ndarray
    objects: list[tuple[np.ndarray, np.ndarray]]


def load_boxed_arrays(
    pairs: Sequence[Pair],
    encoding: LabelEncoding,
    transform: JointTransform,
    maker: LayoutMaker,
    image_channels: Literal[1, 3],
    *,
    image_range: ImageRange = "auto",
    progress: str = "",
) -> BoxedArrays:
    """Return N > 0 pictures as arrays, with the objects that `maker` finds in them; see `load_arrays`."""
    assert not transform.train
    dataset = SegmentationDataset(
        pairs,
        encoding,
        transform,
        image_channels=image_channels,
        image_range=image_range,
        cache_images=False,
        conditions=replace(maker, rules=replace(maker.rules, background=False)),
    )
    images, labels, objects = [], [], []
    unlabeled = np.full(
        transform.image_size, encoding.num_classes, np.uint8 if encoding.num_classes < 256 else np.int16
    )
    for index in tqdm(range(len(pairs)), desc=progress, unit="image", disable=not progress):
        example = dataset[ExampleKey(0, index, 0, 1.0)]
        images += to_pixels(example["image"].numpy()[None])
        labels.append(example["label"].numpy() if "label" in example else unlabeled)
        objects.append((example["object_label"].numpy(), example["object_box"].numpy().astype(np.float64)))
    return BoxedArrays(np.stack(images), np.stack(labels), objects)
