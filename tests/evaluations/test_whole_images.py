"""Sets of whole images of differing sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from whole import whole_shapes


def test_subsets_and_joined_sets_keep_images_labels_and_names_together():
    images, good = whole_shapes(4), whole_shapes(2, good=True)
    chosen = images.subset(np.array([2, 0, 2]))
    assert chosen.names == ("shape2", "shape0", "shape2")
    assert chosen.images[0] is chosen.images[2] is images.images[2]
    assert chosen.labels[1] is images.labels[0]
    both = images.joined(good)
    assert len(both) == 6
    assert both.names == images.names + good.names
    assert both.labels[4] is good.labels[0]
    assert both.num_classes == 3


def test_the_digest_is_of_sizes_pixels_labels_and_order():
    images = whole_shapes(2)
    assert images.digest == whole_shapes(2).digest
    image, label = images.images[0].copy(), images.labels[0].copy()
    image[0, 0, 0] ^= 1
    label[0, 0] = 3
    turned = (images.images[0].reshape(-1, *images.images[0].shape[:1], 3), images.images[1])
    others = [
        images.subset([1, 0]),
        replace(images, images=(image, images.images[1])),
        replace(images, labels=(label, images.labels[1])),
        replace(images, images=turned, labels=(images.labels[0].reshape(turned[0].shape[:2]), images.labels[1])),
        replace(images, num_classes=4),
    ]
    assert len({images.digest, *(other.digest for other in others)}) == 6
    wider = tuple(label.astype(np.int64) for label in images.labels)
    assert replace(images, labels=wider).digest == images.digest


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_are_classes_or_ignored(label: int):
    images = whole_shapes(1)
    with pytest.raises(AssertionError):
        replace(images, labels=(np.full(images.labels[0].shape, label),))
