"""Scores from counts: by hand, against torchmetrics, and what must not change them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MulticlassPrecision,
    MulticlassRecall,
)

from evaluations.metrics.segmentation import (
    SUMMARIES,
    Counts,
    class_score,
    count,
    image_iou,
    published_miou,
    scores,
    summary,
)

Maps = tuple[NDArray[np.int64], NDArray[np.int64]]


def random_maps(num_classes: int, absent: int | None = None, seed: int = 0, images: int = 4) -> Maps:
    """Labels with pixels of no class, predictions that are right in about half of the pixels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes + 1, (images, 9, 7))
    if absent is not None:
        labels[labels == absent] = num_classes
    guesses = rng.integers(0, num_classes, labels.shape)
    return labels, np.where((rng.random(labels.shape) < 0.5) & (labels < num_classes), labels, guesses)


def test_three_by_three_by_hand() -> None:
    """Three classes, of which class 2 is absent but predicted once; one pixel has no class."""
    labels = np.array([[[0, 0, 0], [0, 1, 1], [1, 1, 3]]])
    predictions = np.array([[[0, 0, 1], [2, 1, 1], [1, 0, 1]]])
    counts = count(labels, predictions, 3)
    assert counts.true_positive.tolist() == [[2, 3, 0]]
    assert counts.false_positive.tolist() == [[1, 1, 1]]
    assert counts.false_negative.tolist() == [[2, 1, 0]]
    assert counts.truth.tolist() == [[4, 4, 0]]

    found = scores(counts)
    nan = float("nan")
    np.testing.assert_allclose(found.class_iou, [2 / 5, 3 / 5, nan])
    np.testing.assert_allclose(found.class_dice, [4 / 7, 6 / 8, nan])
    np.testing.assert_allclose(found.class_precision, [2 / 3, 3 / 4, nan])
    np.testing.assert_allclose(found.class_recall, [2 / 4, 3 / 4, nan])
    assert found.present.tolist() == [True, True, False]
    assert found.miou == pytest.approx(1 / 2)
    assert found.foreground_miou == pytest.approx(3 / 5)
    assert found.dice == pytest.approx((4 / 7 + 6 / 8) / 2)
    assert found.precision == pytest.approx(17 / 24)
    assert found.recall == pytest.approx(5 / 8)
    assert found.micro_iou == pytest.approx(5 / 11)
    assert found.micro_dice == found.pixel_accuracy == pytest.approx(5 / 8)


def test_pixels_of_an_image_of_any_size_are_counted_exactly() -> None:
    """More than the whole numbers that float32 has one after the other."""
    label = np.zeros((1, 4096, 4099), np.uint8)
    label[0, :3] = 2  # ignored
    predicted = np.zeros(label.shape, np.int16)
    predicted[0, 3, :5] = 1
    counts = count(label, predicted, 2)
    assert counts.truth.tolist() == [[4093 * 4099, 0]]
    assert counts.true_positive.tolist() == [[4093 * 4099 - 5, 0]]
    assert counts.false_positive.tolist() == [[0, 5]]


@pytest.mark.parametrize(("num_classes", "absent"), [(2, None), (5, None), (5, 3), (5, 0), (2, 1)])
def test_equal_to_torchmetrics(num_classes: int, absent: int | None) -> None:
    labels, predictions = random_maps(num_classes, absent)
    counts = count(labels, predictions, num_classes)
    found = scores(counts)
    present = [index for index in range(num_classes) if index != absent]
    assert np.flatnonzero(found.present).tolist() == present

    def theirs(metric: type[Any], **keywords: Any) -> NDArray[np.float64]:
        measured = metric(num_classes=num_classes, ignore_index=num_classes, **keywords)
        return measured(torch.from_numpy(predictions), torch.from_numpy(labels)).double().numpy()

    for name, macro, metric in [
        ("iou", "miou", MulticlassJaccardIndex),
        ("dice", "dice", MulticlassF1Score),
        ("precision", "precision", MulticlassPrecision),
        ("recall", "recall", MulticlassRecall),
    ]:
        expected = theirs(metric, average=None)[present]
        ours = found.per_class()[name]
        np.testing.assert_allclose(ours[present], expected, rtol=1e-6)
        assert np.isnan(ours).tolist() == [index == absent for index in range(num_classes)]
        assert getattr(found, macro) == pytest.approx(expected.mean(), rel=1e-6)
        if name == "iou":
            foreground = [value for index, value in zip(present, expected, strict=True) if index]
            expected_mean = np.mean(foreground) if foreground else np.nan
            assert found.foreground_miou == pytest.approx(expected_mean, rel=1e-6, nan_ok=True)
    assert found.micro_iou == pytest.approx(theirs(MulticlassJaccardIndex, average="micro"), rel=1e-6)
    assert found.micro_dice == pytest.approx(theirs(MulticlassF1Score, average="micro"), rel=1e-6)
    assert found.pixel_accuracy == pytest.approx(theirs(MulticlassAccuracy, average="micro"), rel=1e-6)
    confusion = theirs(MulticlassConfusionMatrix)
    hits = confusion.diagonal()
    expected_counts = [hits, confusion.sum(axis=0) - hits, confusion.sum(axis=1) - hits]
    np.testing.assert_array_equal([pixels.sum(axis=0) for pixels in counts.columns], expected_counts)


def test_what_is_predicted_where_there_is_no_class_does_not_matter() -> None:
    labels, predictions = random_maps(4)
    changed = np.where(labels == 4, (predictions + 1) % 4, predictions)
    assert (changed != predictions).any()
    before, after = count(labels, predictions, 4), count(labels, changed, 4)
    assert before.to_json() == after.to_json()


@given(st.integers(0, 1000), st.integers(1, 5), st.permutations(range(6)), st.integers(0, 6))
@settings(max_examples=30, deadline=None)
def test_order_and_splits_of_the_images_do_not_matter(seed: int, classes: int, order: list[int], split: int) -> None:
    labels, predictions = random_maps(classes, seed=seed, images=6)
    counts = count(labels, predictions, classes)
    shuffled = count(labels[order], predictions[order], classes)
    parts = [count(labels[part], predictions[part], classes) for part in (slice(split), slice(split, 6))]
    names = [f"class {index}" for index in range(classes)]
    np.testing.assert_array_equal(np.concatenate([part.columns for part in parts], axis=1), counts.columns)
    np.testing.assert_array_equal(shuffled.columns, np.stack(counts.columns)[:, order])
    assert scores(shuffled).to_json(names) == scores(counts).to_json(names)


def test_a_class_that_is_never_predicted_is_zero_and_an_absent_one_is_not() -> None:
    labels, predictions = np.array([[[0, 0], [0, 1]]]), np.zeros((1, 2, 2), np.uint8)
    found = scores(count(labels, predictions, 3))
    np.testing.assert_array_equal(found.class_precision, [3 / 4, 0, np.nan])
    np.testing.assert_array_equal(found.class_iou, [3 / 4, 0, np.nan])
    assert found.miou == 3 / 8
    assert found.foreground_miou == 0
    assert found.absent(["plain", "crack", "hole"]) == ["hole"]


def test_only_background_has_no_foreground_score() -> None:
    zeros = np.zeros((2, 3, 3), np.int64)
    found = scores(count(zeros, zeros, 2))
    assert found.miou == 1
    assert np.isnan(found.foreground_miou)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("images", [0, 1])
def test_no_pixel_to_score(images: int) -> None:
    found = scores(count(np.full((images, 2, 2), 2), np.zeros((images, 2, 2), int), 2))
    assert all(np.isnan(getattr(found, name)) for name in SUMMARIES)
    assert not found.present.any()


def test_one_image_shows_false_alarms() -> None:
    labels = np.array([[[0, 0], [1, 1]], [[0, 0], [0, 0]]])
    predictions = np.array([[[0, 1], [1, 1]], [[0, 0], [0, 2]]])
    expected = [[1 / 2, 2 / 3, np.nan], [3 / 4, np.nan, 0]]
    np.testing.assert_allclose(image_iou(count(labels, predictions, 3)), expected)


def test_leading_axes_are_sets_of_their_own() -> None:
    rng = np.random.default_rng(0)
    columns = rng.integers(0, 4, (3, 20, 2, 3))
    for name in SUMMARIES:
        together = summary(name, *columns)
        one_by_one = [[float(summary(name, *columns[:, i, j])) for j in range(2)] for i in range(20)]
        np.testing.assert_array_equal(together, one_by_one)
    assert class_score("iou", *columns).shape == (20, 2, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_many_classes_of_small_integers(dtype: type) -> None:
    """200 * 201 does not fit in 8 or 16 bits."""
    labels = np.arange(200).reshape(1, 10, 20).astype(dtype)
    assert scores(count(labels, labels, 200)).miou == 1


@pytest.mark.parametrize(
    ("labels", "predictions"),
    [([[[3]]], [[[0]]]), ([[[-1]]], [[[0]]]), ([[[0]]], [[[2]]]), ([[[0]]], [[[-1]]]), ([[[0.0]]], [[[0]]])],
)
def test_values_out_of_range_are_not_counted_as_something_else(labels: list[Any], predictions: list[Any]) -> None:
    with pytest.raises(AssertionError):
        count(labels, predictions, 2)


def test_json_round_trip_has_no_nan() -> None:
    labels, predictions = random_maps(3, absent=2)
    counts = count(labels, predictions, 3)
    again = Counts.from_json(json.loads(json.dumps(counts.to_json())))
    assert again.to_json() == counts.to_json()
    assert again.true_positive.dtype == np.int64
    found = json.loads(json.dumps(scores(again).to_json(["a", "b", "c"]), allow_nan=False))
    assert found["absent"] == ["c"]
    assert found["classes"]["c"] == {"present": False, "iou": None, "dice": None, "precision": None, "recall": None}
    assert found["classes"]["b"]["iou"] == pytest.approx(scores(counts).class_iou[1])
    assert found["miou"] == scores(counts).miou


@pytest.mark.parametrize("case", ["ignore255", "ignore0", "one_class_absent"])
def test_recorded_published_miou(case: str) -> None:
    golden = Path(__file__).resolve().parents[2] / "golden" / "ddpmseg_miou"
    record = json.loads(golden.with_suffix(".json").read_text())["results"][case]
    with np.load(golden.with_suffix(".npz")) as arrays:
        miou, iou = published_miou(arrays["truth"], arrays["predicted"], record["number_class"], record["ignore_label"])
    assert miou == pytest.approx(record["miou"], abs=1e-5)
    assert np.allclose(iou, record["printed_iou"], atol=5.1e-5)
