"""Predicted masks against true ones in boxes, and what needs no model."""

from __future__ import annotations

import numpy as np
import pytest
from layout_sets import image_objects, image_set, layout_sets, one_each

from evaluations.metrics.object_masks import (
    ObjectMasksMetric,
    drawn_shapes,
    matched,
    mean_shapes,
    object_scores,
)
from evaluations.objects import LayoutSets, filled_boxes

SIZE = 16
BOX = (0.25, 0.25, 0.75, 0.75)
INSIDE = np.s_[4:12, 4:12]
TRIANGLE = np.tri(8, dtype=bool)


def label_of(shape: np.ndarray, class_id: int = 1) -> np.ndarray:
    label = np.zeros((SIZE, SIZE), np.uint8)
    label[INSIDE][shape] = class_id
    return label


TRUE = label_of(TRIANGLE)


class TestScores:
    def score(self, predicted: np.ndarray, true: np.ndarray = TRUE) -> dict:
        return object_scores([predicted], [true], one_each([1], BOX), 3).of_class(1)

    def test_the_true_mask_has_1(self):
        assert self.score(TRUE) == {"iou": 1, "mean_iou": 1}

    def test_a_whole_box_has_the_share_of_the_object(self):
        box = filled_boxes(one_each([1], BOX)[0], (SIZE, SIZE), 0)
        assert self.score(box)["iou"] == 36 / 64
        assert self.score(np.zeros_like(TRUE))["iou"] == 0

    def test_pixels_outside_of_the_box_do_not_count(self):
        more = TRUE.copy()
        more[:4] = 1
        assert self.score(more)["iou"] == 1

    def test_ignored_pixels_do_not_count(self):
        true = TRUE.copy()
        true[INSIDE][~TRIANGLE] = 3
        assert self.score(np.ones_like(TRUE), true)["iou"] == 1

    def test_pixels_are_summed_and_objects_are_meant(self):
        """Of two objects of 4 and 16 pixels the first is found: 4 of 20 pixels, and one of two."""
        objects = image_objects([2, 2], [(0, 0, 0.125, 0.125), (0.5, 0.5, 0.75, 0.75)])
        true = filled_boxes(objects, (SIZE, SIZE), 0)
        found = np.where(np.arange(SIZE) < 8, true, 0)
        scores = object_scores([found], [true], [objects], 3)
        assert scores.of_class(2) == {"iou": 4 / 20, "mean_iou": 0.5}
        assert scores.of_class(1) == {"iou": None, "mean_iou": None}
        assert scores.means([1, 2]) == {"iou": 4 / 20, "mean_iou": 0.5}


def test_only_objects_of_the_real_image_are_matched():
    real = image_objects([1, 2], [BOX, (0, 0, 0.2, 0.2)])
    layout = image_objects(
        [1, 2, 1, 2], [BOX, BOX, (0.25, 0.25, 0.75, 0.79), (0, 0, 0.2, 0.22)]
    )  # itself, another class, moved by more than half a pixel, by less
    found = matched(layout, real, (SIZE, SIZE))
    assert found.classes.tolist() == [1, 2]
    assert found.boxes[1].tolist() == [0, 0, 0.2, 0.22]
    assert not len(matched(layout, image_objects([], []), (SIZE, SIZE)))


class TestMeanShapes:
    def test_one_shape_is_found_again_at_another_size(self):
        shapes = mean_shapes(np.stack([TRUE] * 2), one_each([1, 1], BOX), 3)
        drawn = drawn_shapes(one_each([1], (0, 0, 1, 1))[0], shapes, (SIZE, SIZE), 0)
        expected = np.kron(TRIANGLE, np.ones((2, 2), bool))
        assert (drawn == expected).mean() > 0.95

    def test_thin_objects_of_many_shapes_are_not_nothing(self):
        """Each pixel is of one in eight masks, so that a cut at 0.5 would leave nothing."""
        lines = [label_of(np.arange(8)[:, None] == np.full((8, 8), row)) for row in range(8)]
        shapes = mean_shapes(np.stack(lines), one_each([1] * 8, BOX), 3)
        assert shapes[1].any()

    def test_a_class_without_masks_is_a_box(self):
        assert (drawn_shapes(one_each([2], (0, 0, 1, 1))[0], {}, (4, 4), 0) == 2).all()


class TestMetric:
    def measure(self, shown: np.ndarray, **values):
        images = np.zeros((1, SIZE, SIZE, 3), np.uint8)
        real, samples = image_set(images, TRUE[None]), image_set(images, shown[None])
        objects = one_each([1], BOX)
        layouts = LayoutSets(objects, objects, objects, values.pop("predicted", True))
        sets = layout_sets(real, real, samples, layouts, **{"test_origin": np.array([0]), **values})
        return ObjectMasksMetric(4).measure(sets)

    def test_predicted_beside_baselines(self):
        found = self.measure(TRUE)
        (entry,) = found.record.values()
        assert entry["objects"] == 1
        assert entry["classes"]["round"]["predicted"]["iou"] == 1
        assert entry["mean"]["whole_box"]["iou"] == 36 / 64
        assert entry["mean"]["mean_shape"]["iou"] > 0.8
        assert not found.warnings
        assert "predicted 100.0 %, the whole box 56.2 %" in found.findings[0]

    def test_worse_than_boxes_is_a_warning(self):
        (line,) = self.measure(label_of(~TRIANGLE)).warnings
        assert "round" in line

    def test_layouts_of_the_training_are_told_apart(self):
        values = {"origin": np.array([0]), "test_origin": np.array([-1])}
        assert set(self.measure(TRUE, **values).record) == {"training"}

    @pytest.mark.parametrize("values", [{"has_masks": False}, {"test_origin": np.array([-1])}, {"predicted": False}])
    def test_where_no_truth_is_known(self, values):
        assert "not measured" in self.measure(TRUE, **values).record["skipped"]
