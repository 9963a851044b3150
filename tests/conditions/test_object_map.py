"""The label map of masks of objects: the smallest one that is there, else what is behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guided_diffusion.conditions.layout import LayoutCondition
from guided_diffusion.conditions.object_map import label_map_of

CLASSES = 6


def layouts(boxes: list, labels: list, *, background: bool) -> LayoutCondition:
    box = torch.tensor([boxes], dtype=torch.float32)
    return LayoutCondition(torch.tensor([labels]), box, torch.zeros(1, len(labels), 2), CLASSES, (2, 4), background)


def test_the_smallest_object_wins_and_the_background_is_behind():
    boxes = [(0, 0, 0.1, 0.1), (0, 0, 1, 1), (0, 0, 0.75, 1), (0.25, 0, 1, 0.5)]
    condition = layouts(boxes, [4, 1, 2, 3], background=True)
    masks = torch.zeros(1, 4, 2, 4)
    masks[0, 0] = 1  # of the background, whose box does not count
    masks[0, 1] = 0.5
    masks[0, 2, :, :3] = 0.9
    masks[0, 3, 0, 1:] = torch.tensor([0.6, 0.5, 0.49])
    assert label_map_of(masks, condition).tolist() == [[[2, 3, 3, 1], [2, 2, 2, 1]]]
    assert label_map_of(masks - 0.05, condition).tolist() == [[[2, 3, 2, 4], [2, 2, 2, 4]]]
    assert label_map_of(masks / 4, condition, background=5).tolist() == [[[5] * 4] * 2]


def test_empty_slots_do_not_count():
    condition = layouts([(0, 0, 0.1, 0.1), (0, 0, 1, 1)], [CLASSES, 2], background=False)
    masks = torch.ones(1, 2, 2, 4)
    assert (label_map_of(masks, condition) == 2).all()
    assert (label_map_of(masks, condition.null(), background=3) == 3).all()


@pytest.mark.parametrize("background", [True, False])
def test_as_one_pixel_after_the_other(background):
    rng = np.random.default_rng(0)
    n, slots, height, width = 3, 5, 6, 7
    low = rng.uniform(0, 0.5, (n, slots, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.5, (n, slots, 2))], -1)
    labels, masks = rng.integers(0, CLASSES + 1, (n, slots)), rng.uniform(0, 1, (n, slots, height, width))
    condition = LayoutCondition(
        torch.from_numpy(labels), torch.from_numpy(boxes).float(), torch.zeros(n, slots, 1), CLASSES, (6, 7), background
    )
    found = label_map_of(torch.from_numpy(masks), condition, background=1)
    areas = np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)
    for image in range(n):
        for row in range(height):
            for column in range(width):
                there = [o for o in range(slots) if masks[image, o, row, column] >= 0.5 and labels[image, o] < CLASSES]
                there.sort(key=lambda o, image=image: (background and o == 0, areas[image, o]))
                expected = labels[image, there[0]] if there else 1
                assert found[image, row, column] == expected
