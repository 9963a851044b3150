"""A whole dataset as arrays of one size, for metrics that compare all images at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from tqdm import tqdm

from guided_diffusion.data.datasets import SegmentationDataset
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
    progress: str = "",
) -> tuple[Pixels, np.ndarray]:
    """Return the images, uint8 [N, H, W, 3], and the label maps, [N, H, W] in `0..num_classes`, of N > 0 pairs.

    transform: without augmentation (`train=False`). progress: text of a progress bar; empty for none.
    Raises DataError for files that changed since they were scanned.
    """
    assert not transform.train
    dataset = SegmentationDataset(pairs, encoding, transform, image_channels=image_channels, cache_images=False)
    images, labels = [], []
    with tqdm(total=len(pairs), desc=progress, unit="image", disable=not progress) as bar:
        for start in range(0, len(pairs), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(pairs)))
            image, condition = collate_examples(dataset, chunk)
            images += to_pixels(image.numpy())
            labels.append(condition.label.numpy())
            bar.update(len(chunk))
    return np.stack(images), np.concatenate(labels)
