"""How well defects are found: their mean IoU on images with defects, and false alarms on good images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from evaluations.metrics.segmentation import Counts, count, joined, plain, scores
from evaluations.sets import Images, Labels
from evaluations.whole_images import WholeImages

Integers = NDArray[np.int64]

LEAST_PIXELS = 8
"""A smaller predicted component is not called a false alarm; its pixels are counted all the same."""

_EIGHT_NEIGHBORS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True, eq=False)
class FalseAlarms:
    """What is predicted in each of N good images, int64 [N, C] each; column 0 is of all defect classes as one.

    pixels: of each class. largest: pixels of its largest 8-connected component. sizes: pixels of the images, [N], but
    for ignored ones.
    """

    pixels: Integers
    largest: Integers
    sizes: Integers

    def __len__(self) -> int:
        return len(self.pixels)

    def shares(self, least: int = LEAST_PIXELS) -> NDArray[np.float64]:
        """Return the share of the images with a component of at least `least` pixels, [C]; NaN of no image."""
        alarmed = self.largest >= least
        return alarmed.mean(0) if len(self) else np.full(self.pixels.shape[1], np.nan)

    @classmethod
    def joined(cls, parts: Sequence[FalseAlarms]) -> FalseAlarms:
        """Return those of all images of `parts`, at least one, in their order."""
        return cls(*(np.concatenate(each) for each in zip(*(vars(part).values() for part in parts), strict=True)))

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, for a JSON file."""
        return {name: values.tolist() for name, values in vars(self).items()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> FalseAlarms:
        """Return what `to_json` has written, of at least one image."""
        return cls(**{name: np.array(values, dtype=np.int64) for name, values in content.items()})


def false_alarms(label: Labels, predicted: Labels, num_classes: int, defects: Sequence[int]) -> FalseAlarms:
    """Return which defects are predicted in a good image, [H, W], where the label is another class.

    Pixels of label `num_classes` are ignored.
    """
    pixels = np.zeros((1, num_classes), np.int64)
    largest = np.zeros_like(pixels)
    wrong = _wrong_defects(label, predicted, num_classes, defects)
    for class_id in [0, *np.unique(wrong[wrong > 0]).tolist()]:
        found = wrong > 0 if class_id == 0 else wrong == class_id
        numbered, _ = ndimage.label(found, _EIGHT_NEIGHBORS)
        pixels[0, class_id] = found.sum()
        largest[0, class_id] = np.bincount(numbered.ravel())[1:].max(initial=0)
    return FalseAlarms(pixels, largest, np.array([(label < num_classes).sum()], np.int64))


def _wrong_defects(label: Labels, predicted: Labels, num_classes: int, defects: Sequence[int]) -> Labels:
    wrong = np.isin(predicted, defects) & (predicted != label) & (label < num_classes)
    return np.where(wrong, predicted, 0)


def of_defects(counts: Counts, defects: Sequence[int] | None) -> Counts:
    """Return the counts of the classes `defects` behind those of all others as one, class 0; None: all but class 0.

    Pixels of class 0 that were taken for another of its classes stay mistakes there.
    """
    if defects is None:
        return counts
    others = [class_id for class_id in range(counts.truth.shape[1]) if class_id not in defects]
    columns = [
        np.concatenate([pixels[:, others].sum(axis=1, keepdims=True), pixels[:, list(defects)]], axis=1)
        for pixels in counts.columns
    ]
    return Counts(*columns)


def confusion(label: Labels, predicted: Labels, num_classes: int) -> Integers:
    """Return how many pixels of each class are called what, [C, C]: rows by the label map, columns by the prediction.

    Pixels of label `num_classes` are ignored.
    """
    counted = label < num_classes
    pairs = label[counted].astype(np.int64) * num_classes + predicted[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True, eq=False)
class DefectTest:
    """Pixel counts on images with defects, and on good images, if there are any, with the false alarms there.

    confused: `confusion` of the images with defects; None where it was not measured. defects: ids of the defect
    classes; None: all but class 0, the background.
    """

    counts: Counts
    good_counts: Counts | None = None
    alarms: FalseAlarms | None = None
    confused: Integers | None = None
    defects: tuple[int, ...] | None = None

    @property
    def defect_counts(self) -> Counts:
        """`of_defects` of the images with defects."""
        return of_defects(self.counts, self.defects)

    @property
    def all_counts(self) -> Counts:
        """The same of all images, the good ones last."""
        parts = [self.counts] if self.good_counts is None else [self.counts, self.good_counts]
        return of_defects(joined(parts), self.defects)

    def _of_defects(self, names: Sequence[str]) -> list[tuple[int, str]]:
        """Return id and name of each defect class."""
        return [(index, names[index]) for index in self.defects or range(1, len(names))]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for a JSON file."""
        parts = {"counts": self.counts, "good_counts": self.good_counts, "alarms": self.alarms}
        written = {name: None if part is None else part.to_json() for name, part in parts.items()}
        # Only where they are used, as results of versions without them have none.
        own = {} if self.defects is None else {"defects": list(self.defects)}
        return {**written, "confused": None if self.confused is None else self.confused.tolist(), **own}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> DefectTest:
        """Return what `to_json` has written; results of earlier versions do not say what was confused."""
        good, alarms, confused = content["good_counts"], content["alarms"], content.get("confused")
        return cls(
            Counts.from_json(content["counts"]),
            None if good is None else Counts.from_json(good),
            None if alarms is None else FalseAlarms.from_json(alarms),
            None if confused is None else np.array(confused, np.int64),
            None if content.get("defects") is None else tuple(content["defects"]),
        )

    def called(self, class_names: Sequence[str]) -> dict[str, dict[str, float | None]] | None:
        """Return for what the pixels of each defect class are taken, shares by class; null for a class without any."""
        if self.confused is None:
            return None
        shares = self.confused / np.where(self.confused.sum(1) > 0, self.confused.sum(1), np.nan)[:, None]
        return {
            name: dict(zip(class_names, map(plain, shares[index]), strict=True))
            for index, name in self._of_defects(class_names)
        }

    def summary(self, class_names: Sequence[str], *, least: int = LEAST_PIXELS) -> dict[str, Any]:
        """Return all scores as plain values, null where undefined; IoUs and shares in 0..1.

        miou: the mean over the defect classes in the labels. "..._with_good": on all images together, where defects
        predicted in good ones are false positives. false_alarm_images: the share, see `FalseAlarms.shares`.
        """
        found, defects = scores(self.counts), self._of_defects(class_names)
        summary: dict[str, Any] = {"miou": plain(scores(self.defect_counts).foreground_miou)}
        classes = {name: {"iou": plain(found.class_iou[index])} for index, name in defects}
        if self.good_counts is not None and self.alarms is not None:
            whole, shares = scores(joined([self.counts, self.good_counts])), self.alarms.shares(least)
            pixels = self.alarms.pixels.sum(0)
            summary |= {
                "miou_with_good": plain(scores(self.all_counts).foreground_miou),
                "good_images": len(self.alarms),
                "false_alarm_images": plain(shares[0]),
                "false_alarm_pixels": int(pixels[0]),
                "false_alarm_pixel_share": plain(pixels[0] / (self.alarms.sizes.sum() or np.nan)),
            }
            for index, name in defects:
                classes[name] |= {
                    "iou_with_good": plain(whole.class_iou[index]),
                    "false_alarm_images": plain(shares[index]),
                    "false_alarm_pixels": int(pixels[index]),
                }
        return {**summary, "classes": classes}


def measure_defects(
    predict: Callable[[Sequence[Images]], Iterable[Labels]],
    defects: WholeImages,
    good: WholeImages | None = None,
    *,
    classes: tuple[int, ...] | None = None,
) -> DefectTest:
    """Return the test of a model on images with defects and on good ones; `predict` as `predict_whole` does.

    classes: those of defects, None for all but class 0. A false alarm is one of these where the label is another class.
    """
    # One after the other: predictions of large images are large, too.
    number, counts, good_counts, alarms = defects.num_classes, [], [], []
    confused = np.zeros((number, number), np.int64)
    for label, found in zip(defects.labels, predict(defects.images), strict=True):
        counts.append(count(label[None], found[None], number))
        confused += confusion(label, found, number)
    if good is None or len(good) == 0:
        return DefectTest(joined(counts), confused=confused, defects=classes)
    for label, found in zip(good.labels, predict(good.images), strict=True):
        good_counts.append(count(label[None], found[None], number))
        alarms.append(false_alarms(label, found, number, classes or range(1, number)))
    return DefectTest(joined(counts), joined(good_counts), FalseAlarms.joined(alarms), confused, classes)
