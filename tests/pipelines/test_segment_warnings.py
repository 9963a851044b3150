"""What `segment` warns of before a model learns from its masks."""

from __future__ import annotations

import numpy as np
import pytest

from evaluations.fold_scores import FoldScores, Reliability
from evaluations.metrics.segmentation import count
from guided_diffusion.pipelines.segment.report import report_warnings

NAMES = ("background", "found", "missed")


def scores_of(predicted: np.ndarray, labels: np.ndarray) -> FoldScores:
    counts = count(labels, predicted, len(NAMES))
    values = count(labels, np.zeros_like(labels), len(NAMES))
    images = tuple(int((labels == index).any((1, 2)).sum()) for index in range(len(NAMES)))
    certain = Reliability.of(labels, predicted, np.zeros(labels.shape), len(NAMES))
    return FoldScores(counts, values, certain, NAMES, images)


@pytest.mark.parametrize("unlabeled", [None, {"ignored": 0.0}])
def test_classes_that_are_missed_are_named_where_there_are_new_masks(unlabeled):
    labels = np.random.default_rng(0).integers(0, 3, (6, 12, 12))
    for predicted, named in ((labels, False), (np.where(labels == 2, 0, labels), True)):
        scores = scores_of(predicted, labels)
        record = {"scores": scores.record(), "unlabeled": unlabeled}
        lines = [line for line in report_warnings(scores, record) if ": missed." in line]
        assert len(lines) == (named and unlabeled is not None)
