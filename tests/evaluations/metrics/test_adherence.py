"""Adherence: planted changes in boxes and outside of them."""

from __future__ import annotations

import numpy as np
import pytest
from layout_sets import image_objects, image_set, layout_sets

from evaluations.metrics.adherence import FLOOR, AdherenceMetric, changes
from evaluations.objects import LayoutSets

LAYOUT = image_objects([1, 2], [(0, 0, 0.5, 0.5), (0.5, 0.5, 0.6, 0.6)])
SIZE = 20


def drawn(first: int, second: int, outside: int) -> np.ndarray:
    """Return an image that the objects of `LAYOUT` changed from one of 100, by these gray levels."""
    image = np.full((1, SIZE, SIZE, 3), 100 + outside, np.uint8)
    image[:, :10, :10], image[:, 10:12, 10:12] = 100 + first, 100 + second
    return image


NULL = np.full((1, SIZE, SIZE, 3), 100, np.uint8)


def test_planted_changes():
    found = changes(drawn(30, -4, 1), NULL, (LAYOUT,))
    assert found.inside.tolist() == [30, 4]
    assert found.outside.tolist() == [1, 1]
    assert found.classes.tolist() == [1, 2]
    assert found.areas == pytest.approx([0.25, 0.01])


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ((30, 4, 0), [False, False]),
        ((30, 4, 5), [False, True]),  # the second changes its box less than anything else
        ((30, 1, 0), [False, True]),  # by less than the floor
        ((0, 0, 0), [True, True]),
    ],
)
def test_what_is_without_effect(levels, expected):
    assert FLOOR == 2
    assert changes(drawn(*levels), NULL, (LAYOUT,)).without_effect.tolist() == expected


def test_a_box_around_everything_has_no_outside():
    whole = image_objects([1], [(0, 0, 1, 1)])
    found = changes(drawn(5, 5, 5), NULL, (whole,))
    assert found.summary(np.array([True])) == {"objects": 1, "inside": 5, "outside": None, "without_effect": 0}


def measure(images: np.ndarray, null: np.ndarray | None, layout=LAYOUT):
    real = image_set(NULL)
    layouts = LayoutSets(None, (LAYOUT,), (layout,), True, null, "of the background alone")
    return AdherenceMetric(4).measure(layout_sets(None, real, image_set(images), layouts))


def test_by_class_and_size():
    found = measure(drawn(30, 1, 0), NULL)
    assert found.record["all"]["without_effect"] == 0.5
    assert found.record["classes"]["round"] == {"objects": 1, "inside": 30, "outside": 0, "without_effect": 0}
    assert found.record["sizes"].keys() == {"0.5 to 2 %", "10 % and more"}
    assert "square (100.0 %)" in found.warnings[0]


def test_not_measured():
    assert "null_dir" in measure(drawn(1, 1, 1), None).record["skipped"]
    assert "skipped" in measure(drawn(1, 1, 1), NULL, image_objects([], [])).record
