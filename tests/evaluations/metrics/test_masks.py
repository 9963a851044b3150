"""Masks used again are told from new ones, whatever the number of training masks and however finely they differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evaluations.metrics import masks
from evaluations.metrics.base import EvaluationSets, MaskGroups
from evaluations.metrics.masks import MasksMetric
from evaluations.sets import ImageSet, Labels
from evaluations.symmetry import SYMMETRIES, apply_d4

LEFT, RIGHT, NULL = 1, 2, 3


def blobs(count: int, side: int = 32, seed: int = 0) -> Labels:
    """Return label maps of three boxes each, of classes LEFT and RIGHT."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((count, side, side), np.uint8)
    for label in labels:
        for _ in range(3):
            top, left = rng.integers(0, side * 3 // 4, 2)
            down, right = rng.integers(2, side // 4, 2)
            label[top : top + down, left : left + right] = rng.integers(1, 3)
    return labels


def image_set(labels: Labels) -> ImageSet:
    images = np.zeros((*labels.shape, 3), np.uint8)
    return ImageSet(images, labels, tuple(str(number) for number in range(len(labels))), NULL)


def sets_of(training: Labels, samples: Labels, **values) -> EvaluationSets:
    none = np.full(len(samples), -1)
    parts = (image_set(each) for each in (training, blobs(4, training.shape[1], seed=9), samples))
    names = ("background", "left", "right")
    base = EvaluationSets(*parts, names, 0, none, none, "", lambda: MaskGroups((), lambda number: none, ""))  # pyright: ignore
    return replace(base, **values)


def record_of(sets: EvaluationSets) -> dict:
    return MasksMetric(0).measure(sets).record


def test_all_training_masks_count(monkeypatch):
    monkeypatch.setattr(masks, "MOST", 20)
    training = blobs(90)
    again = np.stack([apply_d4(training[k, ..., None], k % len(SYMMETRIES))[..., 0] for k in range(1, 90, 3)])
    record = record_of(sets_of(training, again))
    assert record["used_again"] == 1
    assert record["novelty"]["masks"] == {"median": 0, "near_copies": 1}
    half = record_of(sets_of(training, np.concatenate([again, blobs(len(again), seed=5)])))
    assert half["used_again"] == 0.5


def test_a_mask_that_differs_by_a_pixel_is_not_used_again():
    training = blobs(6, side=256)
    samples = training.copy()
    for sample in samples:
        row, column = np.argwhere(sample > 0)[0]
        sample[row, column] = 0
    record = record_of(sets_of(training, samples))
    assert record["used_again"] == 0
    assert record["novelty"]["masks"]["near_copies"] == 1


@pytest.mark.parametrize("paired", [True, False])
def test_left_and_right_change_places_in_mirrored_masks(paired):
    training = blobs(8)
    mirrored = np.array([0, RIGHT, LEFT], np.uint8)[training[:, :, ::-1]]
    record = record_of(sets_of(training, mirrored, flip_pairs=((LEFT, RIGHT),) if paired else ()))
    assert record["used_again"] == paired
    assert (record["novelty"]["masks"]["near_copies"] == 1) == paired
