"""Connected components of label maps."""

import numpy as np

from guided_diffusion.data.components import Box, find_components


def test_components_cover_their_classes_and_touch_by_corners():
    label = np.zeros((6, 8), np.uint8)
    label[0, 0] = label[1, 1] = 2  # one, by a corner
    label[4:6, 5:8] = 2
    label[4, 0:3] = 1
    label[5, 4] = 7  # not asked for
    found = find_components(label, (1, 2, 3))
    assert [(part.class_id, part.box, part.area) for part in found] == [
        (1, Box(4, 0, 5, 3), 3),
        (2, Box(0, 0, 2, 2), 2),
        (2, Box(4, 5, 6, 8), 6),
    ]
    again = np.zeros_like(label)
    for part in found:
        again[part.box.slices][part.mask] = part.class_id
    assert np.array_equal(again, np.where(label == 7, 0, label))


def test_a_map_without_the_classes_has_no_components():
    assert find_components(np.zeros((3, 3), np.int32), (1,)) == []


def test_a_frame_holds_its_box_inside_the_image():
    assert Box(100, 100, 110, 120).framed((50, 80), (400, 400)) == Box(80, 70, 130, 150)
    assert Box(0, 390, 10, 400).framed((50, 80), (400, 400)) == Box(0, 320, 50, 400)
    assert Box(5, 5, 9, 9).framed((50, 80), (30, 40)) == Box(0, 0, 30, 40)


def test_boxes_that_only_touch_share_nothing():
    box = Box(2, 3, 6, 8)
    assert box.shared(Box(6, 3, 9, 8)) is None
    assert box.shared(Box(5, 0, 9, 4)) == Box(5, 3, 6, 4)
