"""Segmentation scores from counts of pixels: IoU, Dice, precision and recall, per class, macro and micro.

Counts are per image, so that a comparison can resample test images without segmenting them again. All scores are of the
summed counts, as in PASCAL VOC (Everingham et al. 2015), not means of scores of single images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

SUMMARIES = ("miou", "foreground_miou", "dice", "precision", "recall", "micro_iou", "micro_dice", "pixel_accuracy")
"""The scores of a whole set that are one number: see `Scores`."""


# ---------------------------------------------------------------------------------------------------- counts


@dataclass(frozen=True, eq=False)
class Counts:
    """Pixels of each image by class, int64 [N, C] each.

    false_positive: predicted to be of the class, but of another. false_negative: of the class, predicted to be another.
    """

    true_positive: Integers
    false_positive: Integers
    false_negative: Integers

    def __post_init__(self) -> None:
        assert self.true_positive.ndim == 2
        for pixels in self.columns:
            assert pixels.dtype == np.int64
            assert pixels.shape == self.true_positive.shape

    def __len__(self) -> int:
        return len(self.true_positive)

    @property
    def columns(self) -> tuple[Integers, Integers, Integers]:
        """True positives, false positives and false negatives."""
        return self.true_positive, self.false_positive, self.false_negative

    @property
    def truth(self) -> Integers:
        """Pixels of each class in the labels, [N, C]: the same for all predictions of the same images."""
        return self.true_positive + self.false_negative

    def telling(self, score: str) -> NDArray[np.bool_]:
        """Return which images, [N], have a class that a score of SUMMARIES counts: good images have none of defects."""
        return self.truth[:, int(score.startswith("foreground")) :].any(axis=1)

    def to_json(self) -> dict[str, list[list[int]]]:
        """Return plain lists, for a JSON file."""
        return {name: pixels.tolist() for name, pixels in vars(self).items()}

    @classmethod
    def from_json(cls, content: dict[str, list[list[int]]]) -> Counts:
        """Return what `to_json` has written."""
        return cls(**{name: np.array(pixels, dtype=np.int64) for name, pixels in content.items()})


def joined(parts: Sequence[Counts]) -> Counts:
    """Return the counts of all images of `parts`, at least one, in their order."""
    return Counts(*(np.concatenate(pixels) for pixels in zip(*(part.columns for part in parts), strict=True)))


def count(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> Counts:
    """Return the counts of each image, labels [N, H, W] in `0..num_classes`, predictions in `0..num_classes - 1`.

    Pixels of label `num_classes` are ignored: a prediction there is not a false positive either.
    """
    truth, predicted = np.asarray(labels), np.asarray(predictions)
    assert truth.ndim == 3, "labels must be of shape [N, H, W]"
    assert truth.shape == predicted.shape, "labels and predictions must be of one shape"
    for maps, end in ((truth, num_classes + 1), (predicted, num_classes)):
        assert maps.dtype.kind in "iu", "labels and predictions must be integers"
        assert maps.size == 0 or (maps.min() >= 0 and maps.max() < end), "a label or prediction is out of range"
    rows = np.zeros((3, len(truth), num_classes), np.int64)
    for index, (label, found) in enumerate(zip(truth, predicted, strict=True)):
        counted = label < num_classes
        label, found = label[counted], found[counted]
        # Not SMP's get_stats, whose histograms are float32: of 2^24 pixels and more it would miss some.
        hits, called, there = (
            np.bincount(pixels, minlength=num_classes) for pixels in (label[label == found], found, label)
        )
        rows[:, index] = hits, called - hits, there - hits
    return Counts(*rows)


# ---------------------------------------------------------------------------------------------------- scores


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a whole set, all in 0..1; per class [C], and NaN for a class that is not in the labels.

    A mean over no class, and any score of no pixel, is NaN. Micro scores count a wrong pixel twice, as a false negative
    and as a false positive: micro Dice, precision and recall all equal pixel_accuracy.
    """

    class_iou: Floats  # TP / (TP + FP + FN), the Jaccard index
    class_dice: Floats  # 2 TP / (2 TP + FP + FN), the F1 score
    class_precision: Floats  # TP / (TP + FP), by convention 0 for a class that is present and never predicted
    class_recall: Floats  # TP / (TP + FN)
    present: NDArray[np.bool_]  # [C], whether the labels have the class
    miou: float  # macro: the mean over the present classes
    foreground_miou: float  # without class 0
    dice: float
    precision: float
    recall: float
    micro_iou: float  # micro: of the counts summed over all classes
    micro_dice: float
    pixel_accuracy: float

    def absent(self, class_names: Sequence[str]) -> list[str]:
        """Return the names of the classes that the labels do not have."""
        return [name for name, there in zip(class_names, self.present, strict=True) if not there]

    def to_json(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Return plain values for a JSON file, null for NaN: every summary, the classes by name, the absent ones."""
        summaries = {name: plain(getattr(self, name)) for name in SUMMARIES}
        per_class = {}
        for index, name in enumerate(class_names):
            of_class = {score: plain(values[index]) for score, values in self.per_class().items()}
            per_class[name] = {"present": bool(self.present[index]), **of_class}
        return {**summaries, "classes": per_class, "absent": self.absent(class_names)}

    def per_class(self) -> dict[str, Floats]:
        """Return the four scores of each class, [C] each, by their names in a table."""
        names = ("iou", "dice", "precision", "recall")
        return {name: getattr(self, f"class_{name}") for name in names}


def scores(counts: Counts) -> Scores:
    """Return the scores of all images of `counts` together."""
    summed = [pixels.sum(axis=0) for pixels in counts.columns]
    per_class = {f"class_{name}": class_score(name, *summed) for name in ("iou", "dice", "precision", "recall")}
    summaries = {name: float(summary(name, *summed)) for name in SUMMARIES}
    return Scores(**per_class, present=summed[0] + summed[2] > 0, **summaries)


def class_score(name: str, true_positive: ArrayLike, false_positive: ArrayLike, false_negative: ArrayLike) -> Floats:
    """Return one score of each class, [..., C], NaN where it is absent from the labels: see `Scores`.

    name: "iou", "dice", "precision" or "recall". Counts are summed, [..., C], integers or whole float64 numbers.
    """
    columns = (true_positive, false_positive, false_negative)
    hits, wrong, missed = (np.asarray(pixels, dtype=np.float64) for pixels in columns)
    value = _formula(name, hits, wrong, missed)
    if name == "precision":
        value = np.nan_to_num(value, nan=0.0)
    return np.where(hits + missed > 0, value, np.nan)


def summary(name: str, true_positive: ArrayLike, false_positive: ArrayLike, false_negative: ArrayLike) -> Floats:
    """Return the score `name` of `SUMMARIES`, [...], of summed counts [..., C]: see `Scores`.

    The leading axes are separate sets, such as resamples of the test images.
    """
    columns = [np.asarray(pixels, dtype=np.float64) for pixels in (true_positive, false_positive, false_negative)]
    if name in ("micro_iou", "micro_dice", "pixel_accuracy"):
        formula = {"micro_iou": "iou", "micro_dice": "dice", "pixel_accuracy": "recall"}[name]
        return _formula(formula, *(pixels.sum(axis=-1) for pixels in columns))
    if name == "foreground_miou":
        columns = [pixels[..., 1:] for pixels in columns]
    return _mean_over_classes(class_score("iou" if name.endswith("miou") else name, *columns))


def image_iou(counts: Counts) -> Floats:
    """Return the IoU of each class in each image, [N, C]; NaN where neither its labels nor its prediction have it.

    A class that is predicted but absent has IoU 0, unlike in `scores`: in a single image that is an error to show.
    """
    return _formula("iou", *(pixels.astype(np.float64) for pixels in counts.columns))


def published_miou(labels: ArrayLike, predictions: ArrayLike, num_classes: int, ignored: int) -> tuple[float, Floats]:
    """Return the mIoU of DDPM-seg (Baranchuk et al. 2022) and the IoU of each class below `num_classes` but `ignored`.

    For comparison with published numbers only: ignored pixels count as false positives, an absent class counts as 0.
    labels, predictions: integers [N, H, W].
    """
    classes = [number for number in range(num_classes) if number != ignored]
    hits, unions = published_counts(labels, predictions, num_classes)
    return published_means(hits[classes], unions[classes])


def published_counts(labels: ArrayLike, predictions: ArrayLike, num_classes: int) -> tuple[Integers, Integers]:
    """Return the pixels [C] of each class in both maps, and in either, of any shape; see `published_miou`."""
    truth, predicted = np.asarray(labels), np.asarray(predictions)
    hits = [np.count_nonzero((truth == number) & (predicted == number)) for number in range(num_classes)]
    unions = [np.count_nonzero((truth == number) | (predicted == number)) for number in range(num_classes)]
    return np.array(hits, np.int64), np.array(unions, np.int64)


def published_means(hits: Integers, unions: Integers) -> tuple[float, Floats]:
    """Return mIoU and IoU [C] of pixels summed over all images; see `published_miou`."""
    iou = hits / (unions + 1e-8)
    return float(iou.mean()), iou


def _formula(name: str, hits: Floats, wrong: Floats, missed: Floats) -> Floats:
    """Return the score `name`; NaN for 0 / 0. Not SMP's own scores: those of int64 counts are float32."""
    above, below = {
        "iou": (hits, hits + wrong + missed),
        "dice": (2 * hits, 2 * hits + wrong + missed),
        "precision": (hits, hits + wrong),
        "recall": (hits, hits + missed),
    }[name]
    return _ratio(above, below)


def _mean_over_classes(values: Floats) -> Floats:
    """Return the mean over the last axis without NaN; NaN of nothing, without the warning of `nanmean`."""
    return _ratio(np.nansum(values, axis=-1), np.isfinite(values).sum(axis=-1).astype(np.float64))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=np.asarray(below) > 0)


def plain(value: float) -> float | None:
    """Return the number for a JSON file: None for NaN."""
    return None if np.isnan(value) else float(value)


def in_points(value: float) -> str:
    """Return a difference of shares in points, with its sign, such as "+1.5"; never "-0.0"."""
    return f"{round(100 * value, 1) + 0.0:+.1f}"  # adding 0.0 turns -0.0 into 0.0
