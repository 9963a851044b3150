"""Scores of pixel classifiers on images that they were not trained on, fold by fold, and how uncertainty tells errors.

Intervals are of a bootstrap over images (of few of them Student's t): they tell how the scores would differ with other
labeled images, not with other trainings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluations.groups import Groups, numbered
from evaluations.metrics.segmentation import Counts, Floats, class_score, joined, plain, scores
from evaluations.study.comparison import bootstrap_difference, draw_group_weights, score_interval, weighted_score

Integers = NDArray[np.int64]

EDGES = np.concatenate([[0.0], np.geomspace(1e-4, 2.5, 47)])
"""Lower ends of the bins of uncertainty, in nats; the last one has no upper end."""
WRONG_SHARE = 1 / 3
"""Of the held-out pixels above a limit of uncertainty, from which on they are better left out."""
WEAK_IOU = 0.3
CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Reliability:
    """How many pixels were right and wrong at which uncertainty: `right` and `wrong` are int64 [bins], see EDGES."""

    right: Integers
    wrong: Integers

    @classmethod
    def of(cls, label: ArrayLike, prediction: ArrayLike, uncertainty: ArrayLike, num_classes: int) -> Reliability:
        """Return the counts of an image, [H, W] each; pixels of label `num_classes` are ignored."""
        truth, found, nats = (np.asarray(each) for each in (label, prediction, uncertainty))
        assert truth.shape == found.shape == nats.shape
        counted = truth < num_classes
        bins = np.searchsorted(EDGES, nats[counted], side="right") - 1
        right = truth[counted] == found[counted]
        return cls(*(np.bincount(bins[each], minlength=len(EDGES)).astype(np.int64) for each in (right, ~right)))

    @classmethod
    def joined(cls, parts: Sequence[Reliability]) -> Reliability:
        """Return the counts of all images together; none: zeros."""
        empty = np.zeros(len(EDGES), np.int64)
        return cls(sum((part.right for part in parts), empty), sum((part.wrong for part in parts), empty))

    def limit(self) -> float | None:
        """Return the least uncertainty above which at least WRONG_SHARE of the pixels were wrong; None: nowhere."""
        wrong, pixels = (each[::-1].cumsum()[::-1] for each in (self.wrong, self.right + self.wrong))
        reached = (pixels > 0) & (wrong >= WRONG_SHARE * pixels)
        return float(EDGES[reached.argmax()]) if reached.any() else None

    def rows(self, parts: int = 5) -> list[tuple[float, float, int, float]]:
        """Return (from, to, pixels, share that was right) of up to `parts` groups of about as many pixels, certain
        ones first; the last `to` is infinite.
        """
        pixels = self.right + self.wrong
        # Groups end after the bins in which another part of all pixels is complete.
        complete = (pixels.cumsum() * parts // max(1, pixels.sum())).tolist()
        ends = [bin_ for bin_ in range(len(EDGES) - 1) if complete[bin_] > ([0, *complete][bin_])]
        rows, start = [], 0
        for end in ends:
            rows.append((start, end + 1))
            start = end + 1
        if pixels[start:].sum():
            rows.append((start, len(EDGES)))
        return [
            (
                float(EDGES[first]),
                float("inf") if number == len(rows) - 1 else float(EDGES[last]),
                int(pixels[first:last].sum()),
                float(self.right[first:last].sum() / pixels[first:last].sum()),
            )
            for number, (first, last) in enumerate(rows)
        ]

    def to_json(self) -> dict[str, list[int]]:
        """Return plain lists, for a JSON file."""
        return {"right": self.right.tolist(), "wrong": self.wrong.tolist()}

    @classmethod
    def from_json(cls, content: dict[str, list[int]]) -> Reliability:
        """Return what `to_json` has written."""
        return cls(*(np.array(content[key], np.int64) for key in ("right", "wrong")))


def choose_favor(counts: Sequence[Sequence[Counts]]) -> tuple[int, list[int]]:
    """Return which of several predictions has the best mIoU; counts: of each fold, for each prediction.

    First by all folds together, then for each fold by the others alone, so that its own score stays a held-out one.
    Of equal ones the first.
    """

    def best(folds: Sequence[int]) -> int:
        if not folds:
            return 0
        options = range(len(counts[0]))
        found = [scores(joined([counts[fold][option] for fold in folds])).miou for option in options]
        return max(options, key=lambda option: np.nan_to_num(found[option], nan=-1.0))

    numbers = range(len(counts))
    return best(numbers), [best([other for other in numbers if other != fold]) for fold in numbers]


@dataclass(frozen=True)
class FoldScores:
    """The held-out images of all folds, segmented by features and by the values of the pixel alone.

    images_with: in how many of them each class is. favor, favor_of_fold: see `choose_favor`; a value, and indices.
    groups: of the images, by which intervals draw them.
    """

    counts: Counts
    values: Counts
    reliability: Reliability
    class_names: tuple[str, ...]
    images_with: tuple[int, ...]
    favor: float = 0.0
    favor_of_fold: Mapping[str, int] = field(default_factory=dict)
    groups: Groups | None = None

    def record(self, seed: int = 0) -> dict[str, Any]:
        """Return all scores with their intervals as plain values in 0..1, null where undefined, for report.json."""
        difference = bootstrap_difference(
            [self.values], [self.counts], groups=self.groups, resamples=RESAMPLES, seed=seed
        )
        return {
            "images": len(self.counts),
            "favor_rare": self.favor,
            "features": self._scored(self.counts, seed),
            "values": self._scored(self.values, seed),
            "difference": difference.to_json(),
            "weak": self.weak(),
            "images_with": dict(zip(self.class_names, self.images_with, strict=True)),
            "reliability": self.reliability.to_json(),
        }

    def weak(self) -> list[str]:
        """Return the classes of which more should be labeled: of little IoU, or in one image alone."""
        iou = scores(self.counts).class_iou
        each = zip(self.class_names, iou, self.images_with, strict=True)
        return [name for name, value, images in each if images == 1 or (images and not value >= WEAK_IOU)]

    def _scored(self, counts: Counts, seed: int) -> dict[str, Any]:
        groups = numbered(self.groups, len(counts))
        weights = draw_group_weights(np.random.default_rng(seed), RESAMPLES, groups)
        found = scores(counts)
        miou = _interval(found.miou, weighted_score(counts, "miou", weights), len(set(groups)))
        columns = [weights @ pixels.astype(np.float64) for pixels in counts.columns]
        per_class = class_score("iou", *columns)
        # Where a class is not, chance does not tell how well it is found.
        groups_with = [len(set(groups[there])) for there in (counts.truth > 0).T]
        return {
            "miou": {"mean": plain(found.miou), **miou},
            "foreground_miou": plain(found.foreground_miou),
            "pixel_accuracy": plain(found.pixel_accuracy),
            "classes": {
                name: {"iou": plain(iou), **_interval(iou, per_class[:, index], groups_with[index])}
                for index, (name, iou) in enumerate(zip(self.class_names, found.class_iou, strict=True))
            },
        }


def _interval(score: float, draws: Floats, groups: int) -> dict[str, float | None]:
    low, high = score_interval(score, draws, groups, CONFIDENCE)
    return {"low": plain(low), "high": plain(high)}
