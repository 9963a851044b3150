"""Mask agreement against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from evaluations.metrics.agreement import agreement, sample_scores
from evaluations.metrics.segmentation import count

# Label maps of 2 x 4 pixels, 3 classes; 3 marks pixels of no class.
CASES = {
    # name: (mask, prediction, score)
    "found": ([[0, 0, 1, 1], [0, 0, 1, 1]], [[0, 0, 1, 1], [0, 0, 1, 1]], 1.0),
    "half found": ([[0, 0, 1, 1], [0, 0, 1, 1]], [[0, 0, 0, 1], [0, 0, 0, 1]], 0.5),
    "missed": ([[0, 0, 1, 1], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]], 0.0),
    "one of two classes": ([[1, 1, 2, 2], [0, 0, 0, 0]], [[1, 1, 0, 0], [0, 0, 0, 0]], 0.5),
    "another class instead": ([[1, 1, 0, 0], [0, 0, 0, 0]], [[2, 2, 0, 0], [0, 0, 0, 0]], 0.0),
    "spread too far": ([[1, 1, 0, 0], [0, 0, 0, 0]], [[1, 1, 1, 1], [0, 0, 0, 0]], 0.5),
    "background alone": ([[0, 0, 0, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]], 1.0),
    "seen where nothing is": ([[0, 0, 0, 0], [0, 0, 0, 0]], [[1, 1, 0, 0], [0, 0, 0, 0]], 0.75),
    "ignored pixels": ([[1, 1, 3, 3], [0, 0, 3, 3]], [[1, 1, 2, 2], [0, 0, 1, 1]], 1.0),
    "nothing labeled": ([[3, 3, 3, 3], [3, 3, 3, 3]], [[0, 1, 2, 0], [0, 0, 0, 0]], 1.0),
}


@pytest.mark.parametrize(("mask", "prediction", "score"), CASES.values(), ids=CASES.keys())
def test_score_of_one_sample(mask, prediction, score):
    counts = count(np.array([mask]), np.array([prediction]), 3)
    assert sample_scores(counts) == pytest.approx([score])


@pytest.mark.parametrize(("mask", "prediction", "score"), CASES.values(), ids=CASES.keys())
def test_the_background_may_be_another_class(mask, prediction, score):
    others = np.array([1, 2, 0, 3])  # 0 is called 1, 1 is 2, 2 is 0
    counts = count(others[[mask]], others[[prediction]], 3)
    found = agreement(counts, background=1)
    assert found.score == pytest.approx([score])
    assert found.background_only.item() == ((np.array(mask) == 0) | (np.array(mask) == 3)).all()


def test_a_set_of_samples():
    masks, predictions, scores = (np.array([case[part] for case in CASES.values()]) for part in range(3))
    found = agreement(count(masks, predictions, 3))
    assert found.score == pytest.approx(scores)
    shown = np.array([(mask == 1).any() or (mask == 2).any() for mask in masks])
    assert (found.background_only == ~shown).all()
    assert found.summary()["mean"] == pytest.approx(scores[shown].mean())
    assert found.summary()["median"] == pytest.approx(np.median(scores[shown]))
    assert (found.summary()["counted"], found.summary()["bare"]) == (7, 3)
    one_of_two = list(CASES).index("one of two classes")
    assert found.by_class[one_of_two] == pytest.approx([4 / 6, 1, 0])
    assert found.scores.present.all()
