"""Objects in boxes: which pixels a box has, boxes as label maps, and crops of them."""

from __future__ import annotations

import numpy as np
import pytest
from layout_sets import image_objects

from evaluations.objects import crops_of, filled_boxes, pixels_of


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 1, 1), (slice(0, 8), slice(0, 16))),
        ((0.25, 0.5, 0.5, 0.75), (slice(4, 6), slice(4, 8))),
        ((0.26, 0.49, 0.5, 0.76), (slice(4, 6), slice(4, 8))),
        ((0.51, 0.51, 0.52, 0.52), (slice(4, 5), slice(8, 9))),  # smaller than a pixel
        ((0.99, 0.99, 1, 1), (slice(7, 8), slice(15, 16))),
        ((-0.5, -0.5, 2, 2), (slice(0, 8), slice(0, 16))),
    ],
)
def test_pixels_of_a_box(box, expected):
    assert pixels_of(np.array(box, float), (8, 16)) == expected


def test_smaller_boxes_are_in_front():
    objects = image_objects([1, 2], [(0.25, 0.25, 0.5, 0.5), (0, 0, 0.75, 1)])
    expected = np.full((4, 4), 0)
    expected[:, :3] = 2
    expected[1, 1] = 1
    assert np.array_equal(filled_boxes(objects, (4, 4), 0), expected)
    assert np.array_equal(filled_boxes(image_objects([], []), (4, 4), 3), np.full((4, 4), 3))


def test_crops_are_what_boxes_show():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    objects = image_objects([2, 1], [(0, 0.5, 0.5, 1), (0.5, 0, 1, 0.5)])
    crops = crops_of(image[None], [objects], 8)
    assert np.array_equal(crops.images, np.stack([image[8:, :8], image[:8, 8:]]))
    assert crops.classes.tolist() == [2, 1]
    plain = np.full((1, 16, 16, 3), 77, np.uint8)
    assert (crops_of(plain, [objects], 32).images == 77).all()
    assert crops_of(plain, [image_objects([], [])], 32).images.shape == (0, 32, 32, 3)
