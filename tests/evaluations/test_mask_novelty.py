"""Novelty: 1 - IoU to the nearest mask, by classes, under flips and turns."""

from __future__ import annotations

import numpy as np
import pytest

from evaluations.mask_novelty import NoveltyIndex, leave_one_out, nearest_novelty, occupied

A, B, NULL = 1, 2, 3


def box(top: int, left: int, bottom: int, right: int, value: int = A, size=(64, 64)) -> np.ndarray:
    label = np.zeros(size, np.uint8)
    label[top:bottom, left:right] = value
    return label


def novelty(masks: list[np.ndarray], training: list[np.ndarray]) -> np.ndarray:
    return nearest_novelty(masks, NoveltyIndex(training, NULL))


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_mask_turned_is_not_new(turn, mirrored):
    label = box(5, 10, 20, 18)
    seen = np.rot90(label.T if mirrored else label, turn)
    assert novelty([seen], [label]) == pytest.approx([0])


def test_half_of_it_elsewhere():
    """IoU of two boxes of 16 x 16 that share a half: 1/3."""
    index = NoveltyIndex([box(0, 0, 16, 16)], NULL)
    assert index.nearest(box(0, 8, 16, 24))[0] == pytest.approx(2 / 3)


def test_the_mean_over_the_classes_of_either_mask():
    first = box(0, 0, 16, 16) + box(40, 40, 56, 56, B)
    assert novelty([box(0, 0, 16, 16)], [first]) == pytest.approx([1 / 2])
    moved = box(0, 0, 16, 16) + box(40, 48, 56, 64, B)
    assert novelty([moved], [first]) == pytest.approx([1 - (1 + 1 / 3) / 2])


def test_other_classes_are_new():
    assert novelty([box(0, 0, 16, 16, B)], [box(0, 0, 16, 16)]) == pytest.approx([1])


def test_ignored_pixels_and_background_do_not_count():
    label = box(0, 0, 16, 16)
    label[40:] = NULL
    assert novelty([label], [box(0, 0, 16, 16)]) == pytest.approx([0])
    assert novelty([np.zeros((64, 64), np.uint8)], [np.zeros((32, 99), np.uint8)]) == pytest.approx([0])
    index = NoveltyIndex([box(0, 0, 16, 16, B)], NULL, background=B)
    assert index.nearest(np.full((64, 64), B, np.uint8))[0] == pytest.approx(1)  # the training mask has class 0


def test_the_nearest_is_named():
    training = [box(0, 0, 16, 16), box(20, 20, 40, 40), box(20, 20, 40, 40, B)]
    assert NoveltyIndex(training, NULL).nearest(box(20, 22, 40, 42))[1] == 1


def test_masks_of_other_sizes_are_compared():
    large = box(50, 100, 200, 180, size=(640, 640))
    assert novelty([box(5, 10, 20, 18)], [large]) == pytest.approx([0], abs=0.15)
    assert novelty([box(3, 3, 6, 6, size=(10, 10))], [large])[0] > 0.5


def test_oblong_masks_are_not_turned_by_a_quarter():
    label = box(0, 0, 4, 60, size=(40, 80))
    assert novelty([label[::-1]], [label]) == pytest.approx([0])
    assert novelty([np.ascontiguousarray(label.T)], [label])[0] > 0.5


def test_left_and_right_change_places_in_a_mirror():
    label = box(10, 5, 20, 15, A) + box(10, 45, 20, 55, B)
    flipped = np.array([0, B, A])[label[:, ::-1]].astype(np.uint8)
    index = NoveltyIndex([label], NULL, flip_pairs=[(A, B)])
    assert index.nearest(flipped)[0] == pytest.approx(0)
    assert index.nearest(label)[0] == pytest.approx(0)
    assert index.nearest(np.ascontiguousarray(label[:, ::-1]))[0] > 0.6
    turned = np.ascontiguousarray(label[::-1, ::-1])  # a turn is no mirror
    assert index.nearest(turned)[0] == pytest.approx(0)


def test_leave_one_out():
    training = [box(0, 0, 16, 16), box(0, 0, 16, 16), box(20, 20, 40, 40, B)]
    assert leave_one_out(training, NoveltyIndex(training, NULL)) == pytest.approx([0, 0, 1])
    assert leave_one_out(training[:1], NoveltyIndex(training[:1], NULL)) == pytest.approx([1])


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (64, 64), (65, 63), (300, 10)])
def test_a_pixel_is_never_lost(shape):
    mask = np.zeros(shape, bool)
    mask[shape[0] // 2, shape[1] // 2] = True
    assert occupied(mask, 64).any()
    assert occupied(np.ones(shape, bool), 64).all()


def test_many_masks_are_compared_in_coarser_cells(monkeypatch):
    monkeypatch.setattr("evaluations.mask_novelty._MANY", 0)
    index = NoveltyIndex([box(0, 0, 16, 16)], NULL)
    assert index.nearest(box(48, 48, 64, 64))[0] == pytest.approx(0)
    assert index.nearest(box(0, 8, 16, 24))[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("size", [(48, 48), (33, 50), (20, 20), (64, 64), (100, 70)])
def test_a_copy_among_many_masks_is_not_new(monkeypatch, size):
    monkeypatch.setattr("evaluations.mask_novelty._MANY", 0)
    random = np.random.default_rng(0)
    corners = random.integers(0, min(size) - 8, (12, 2)).tolist()
    labels = [box(top, left, top + 3, left + 8, size=size) for top, left in corners]
    assert novelty(labels, labels) == pytest.approx(np.zeros(12))
