"""Made-up sets of images with objects in boxes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from evaluations.metrics.base import EvaluationSets, MaskGroups
from evaluations.objects import ImageObjects, LayoutSets
from evaluations.sets import ImageSet

NAMES = ("background", "round", "square")


def image_set(images: np.ndarray, labels: np.ndarray | None = None, num_classes: int = 3) -> ImageSet:
    labels = np.full(images.shape[:3], num_classes, np.uint8) if labels is None else labels
    return ImageSet(images, labels, tuple(str(number) for number in range(len(images))), num_classes)


def image_objects(classes: Iterable[int], boxes: Iterable[Sequence[float]]) -> ImageObjects:
    return ImageObjects(np.array([*classes], np.int64), np.array([*boxes], np.float64).reshape(-1, 4))


def one_each(classes: Sequence[int], box: Sequence[float] = (0.25, 0.25, 0.75, 0.75)) -> tuple[ImageObjects, ...]:
    return tuple(image_objects([class_id], [box]) for class_id in classes)


def layout_sets(training: ImageSet | None, test: ImageSet, samples: ImageSet, layouts: LayoutSets, **values):
    none = np.full(len(samples), -1)
    given = {"origin": none, "test_origin": none, "layouts": layouts, **values}
    base = {"background": 0, "resampling": "", "find_groups": lambda: MaskGroups((), lambda number: samples.images, "")}
    return EvaluationSets(training, test, samples, NAMES, **base, **given)
