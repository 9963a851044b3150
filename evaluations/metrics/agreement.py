"""Mask agreement: how well a segmenter trained on real images finds, in a sample, the mask it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluations.metrics.segmentation import Counts, Scores, image_iou, scores

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """Agreement of N samples with their masks.

    score: [N] in 0..1, see `sample_scores`.
    by_class: [N, C], the IoU of each class in each sample; NaN where neither its mask nor the prediction has it.
    bare: booleans [N], masks of nothing but background.
    scores: of the counts of all samples together.
    """

    score: Floats
    by_class: Floats
    bare: NDArray[np.bool_]
    scores: Scores

    def below(self, threshold: float) -> NDArray[np.bool_]:
        """Return [N], True for the samples whose score is lower than `threshold`."""
        return self.score < threshold

    def ranked(self) -> NDArray[np.int64]:
        """Return the indices of the samples, the worst first."""
        return np.argsort(self.score, kind="stable")

    def summary(self) -> dict[str, Any]:
        """Return what describes the distribution of the scores, in JSON types.

        Of the masks that show something, where there are any: bare ones are agreed with by seeing nothing.
        """
        counted = self.score if self.bare.all() else self.score[~self.bare]
        quantiles = np.quantile(counted, [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1])
        names = ("min", "p10", "p25", "median", "p75", "p90", "max")
        distribution = {"mean": float(counted.mean()), **dict(zip(names, map(float, quantiles), strict=True))}
        return {**distribution, "counted": len(counted), "bare": int(self.bare.sum())}


def agreement(counts: Counts, background: int = 0) -> Agreement:
    """Return the agreement of samples from the counts of a segmenter's predictions on them, against their masks."""
    bare = ~(np.delete(counts.truth, background, axis=1) > 0).any(axis=1)
    return Agreement(sample_scores(counts, background), image_iou(counts), bare, scores(counts))


def sample_scores(counts: Counts, background: int = 0) -> Floats:
    """Return one score for each image, [N] in 0..1: its mean IoU over the classes of its mask without the background.

    The background (a class) covers most of an image, so that its IoU is high even where every defect is missed. Where
    a mask has nothing else its IoU is the score: it falls with everything the segmenter sees that should not be there.
    An image without any labelled pixel has nothing to disagree with: 1.
    """
    in_mask = counts.truth > 0
    foreground = in_mask.copy()
    foreground[:, background] = False
    counted = np.where(foreground.any(axis=1, keepdims=True), foreground, in_mask)
    summed = np.where(counted, np.nan_to_num(image_iou(counts)), 0).sum(axis=1)
    number = counted.sum(axis=1)
    return np.where(number > 0, summed / np.maximum(number, 1), 1.0)
