"""Scores of found defects, and false alarms on good images, of predictions whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from whole import whole_shapes

from evaluations.metrics.segmentation import Counts, count
from evaluations.segmentation.defect_scores import (
    DefectTest,
    FalseAlarms,
    confusion,
    false_alarms,
    measure_defects,
    of_defects,
)
from evaluations.study.comparison import constant_score
from evaluations.whole_images import WholeImages

NAMES = ("background", "bright", "dark")


def perfect(images: WholeImages):
    """Return a prediction that knows the labels of `images`."""
    known = {image.tobytes(): label for image, label in zip(images.images, images.labels, strict=True)}
    return lambda asked: [known[image.tobytes()].astype(np.int16) for image in asked]


def test_components_are_counted_by_class_and_as_one():
    predicted = np.zeros((10, 12), np.int16)
    predicted[0, 0:3] = 1
    predicted[1, 3:7] = 2  # touches the first by a corner
    predicted[8:, 8:10] = 2
    labels = [np.zeros((10, 12), np.int16), np.zeros((4, 4), np.int16)]
    found = zip(labels, (predicted, np.zeros((4, 4), np.int16)), strict=True)
    alarms = FalseAlarms.joined([false_alarms(label, each, 3, (1, 2)) for label, each in found])
    assert alarms.pixels.tolist() == [[11, 3, 8], [0, 0, 0]]
    assert alarms.largest.tolist() == [[7, 3, 4], [0, 0, 0]]
    assert alarms.sizes.tolist() == [120, 16]
    assert alarms.shares(4).tolist() == [0.5, 0, 0.5]
    assert alarms.shares(8).tolist() == [0, 0, 0]


def test_ignored_pixels_of_good_images_are_no_false_alarms():
    images, good = whole_shapes(2), whole_shapes(2, good=True)
    labels = tuple(np.where(np.arange(len(label))[:, None] < 5, good.num_classes, label) for label in good.labels)

    def predict(asked):
        return [np.broadcast_to(np.arange(len(image))[:, None] < 5, image.shape[:2]).astype(int) for image in asked]

    before = measure_defects(predict, images, good)
    test = measure_defects(predict, images, replace(good, labels=labels))
    assert before.alarms.pixels[:, 1].tolist() == [5 * label.shape[1] for label in labels]
    assert not test.alarms.pixels.any()
    assert test.alarms.sizes.tolist() == [(label < good.num_classes).sum() for label in labels]
    assert not test.good_counts.false_positive[:, 1:].any()


def test_a_perfect_model_has_no_false_alarm():
    images, good = whole_shapes(4), whole_shapes(3, good=True)
    summary = measure_defects(perfect(images.joined(good)), images, good).summary(NAMES)
    assert summary["miou"] == summary["miou_with_good"] == 1
    assert summary["false_alarm_images"] == summary["false_alarm_pixels"] == 0
    assert summary["good_images"] == 3
    assert list(summary["classes"]) == ["bright", "dark"]


def test_defects_predicted_in_good_images_lower_the_score_with_good_images_only():
    images, good = whole_shapes(2), whole_shapes(2, good=True)
    wrong = [np.zeros(label.shape, np.int16) for label in good.labels]
    wrong[1][:3, :4] = 1
    known = perfect(images)

    def predict(asked):
        return wrong if asked is good.images else known(asked)

    summary = measure_defects(predict, images, good).summary(NAMES)
    bright = int((images.labels[0] == 1).sum())
    assert summary["miou"] == 1
    assert summary["classes"]["bright"]["iou_with_good"] == pytest.approx(bright / (bright + 12))
    assert summary["miou_with_good"] == pytest.approx((1 + bright / (bright + 12)) / 2)
    assert summary["false_alarm_images"] == 0.5
    assert summary["classes"]["bright"]["false_alarm_images"] == 0.5
    assert summary["classes"]["dark"]["false_alarm_images"] == 0
    assert summary["false_alarm_pixels"] == 12
    assert summary["false_alarm_pixel_share"] == pytest.approx(12 / sum(label.size for label in good.labels))
    assert measure_defects(predict, images, good).summary(NAMES, least=13)["false_alarm_images"] == 0


def test_an_absent_class_is_not_scored_and_good_images_may_be_missing():
    images = whole_shapes(1)
    found = measure_defects(perfect(images), images)
    assert found.alarms is None
    summary = found.summary(NAMES)
    assert summary["miou"] == 1
    assert summary["classes"] == {"bright": {"iou": 1}, "dark": {"iou": None}}
    assert "miou_with_good" not in summary


def test_confused_classes_are_told_and_ignored_pixels_are_not_counted():
    label, predicted = np.zeros((2, 6), np.uint8), np.zeros((2, 6), np.int16)
    label[0] = (1, 1, 1, 1, 3, 3)  # 3: ignored
    predicted[0] = (1, 2, 2, 0, 1, 2)
    found = confusion(label, predicted, 3)
    assert found.tolist() == [[6, 0, 0], [1, 1, 2], [0, 0, 0]]
    nothing = np.zeros((1, 3), np.int64)
    test = DefectTest(Counts(nothing, nothing, nothing), confused=found)
    assert test.called(NAMES) == {
        "bright": {"background": 0.25, "bright": 0.25, "dark": 0.5},
        "dark": dict.fromkeys(NAMES),
    }


def test_objects_on_which_defects_lie_are_no_defects():
    """Class 1 is an object, also in good images; class 2 is a defect, of which half is missed."""
    images, good = whole_shapes(4), whole_shapes(4, seed=1)
    good = good.subset([0, 2])  # with bright squares alone
    perfectly = measure_defects(perfect(images.joined(good)), images, good, classes=(2,)).summary(NAMES)
    assert perfectly["miou"] == perfectly["miou_with_good"] == 1
    assert perfectly["false_alarm_images"] == perfectly["false_alarm_pixels"] == 0
    known = perfect(images.joined(good))

    def predict(asked):
        found = known(asked)
        if asked is good.images:
            found[0][good.labels[0] == 1] = 2  # the object is taken for a defect
            found[1][:] = 1  # everything is taken for the object
        return found

    test = measure_defects(predict, images, good, classes=(2,))
    summary = test.summary(NAMES)
    assert (summary["miou"], summary["false_alarm_images"]) == (1, 0.5)
    assert summary["false_alarm_pixels"] == (good.labels[0] == 1).sum()
    assert list(summary["classes"]) == list(test.called(NAMES)) == ["dark"]
    assert summary["miou_with_good"] == summary["classes"]["dark"]["iou_with_good"] < 1
    again = DefectTest.from_json(json.loads(json.dumps(test.to_json())))
    assert again.summary(NAMES) == summary


def test_without_objects_the_counts_are_those_of_all_classes():
    images, good = whole_shapes(4), whole_shapes(2, good=True)
    every, named = (
        measure_defects(perfect(images.joined(good)), images, good, classes=each) for each in (None, (1, 2))
    )
    assert named.summary(NAMES) == every.summary(NAMES)
    for first, second in zip(named.defect_counts.columns, every.counts.columns, strict=True):
        assert np.array_equal(first, second)
    assert "defects" not in every.to_json()  # as earlier versions wrote it


def test_the_rest_is_one_class_in_the_counts_of_defects():
    labels = np.random.default_rng(0).integers(0, 5, (3, 8, 8))
    counts = count(labels, np.zeros_like(labels), 4)  # 4: ignored
    found = of_defects(counts, (2,))
    assert np.array_equal(found.truth, np.stack([counts.truth[:, [0, 1, 3]].sum(1), counts.truth[:, 2]], 1))
    share = (labels == 2).sum() / (labels < 4).sum()
    assert constant_score(found, "foreground_miou") == pytest.approx(share)


@pytest.mark.parametrize("with_good", [False, True])
def test_a_test_comes_back_from_json(with_good: bool):
    images, good = whole_shapes(2), whole_shapes(2, good=True)
    found = measure_defects(perfect(images.joined(good)), images, good if with_good else None)
    again = DefectTest.from_json(json.loads(json.dumps(found.to_json())))
    assert again.summary(NAMES) == found.summary(NAMES)
    assert (
        again.called(NAMES) == found.called(NAMES) == {name: {**dict.fromkeys(NAMES, 0), name: 1} for name in NAMES[1:]}
    )
    older = {key: value for key, value in found.to_json().items() if key != "confused"}
    assert DefectTest.from_json(older).called(NAMES) is None
    if with_good:
        assert isinstance(again.alarms, FalseAlarms)
        assert again.alarms.pixels.dtype == np.int64
