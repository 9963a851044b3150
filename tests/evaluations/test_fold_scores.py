"""Scores of held-out images: their intervals, the limit of uncertainty, and which classes to label more of."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluations.fold_scores import EDGES, FoldScores, Reliability, choose_favor
from evaluations.metrics.segmentation import Counts, count, scores

NAMES = ("background", "a", "b")


def reliability(right: list[float], wrong: list[float]) -> Reliability:
    """Return the counts of pixels of these uncertainties."""
    nats = np.array([[*right, *wrong]])
    prediction = np.array([[*([0] * len(right)), *([1] * len(wrong))]])
    return Reliability.of(np.zeros_like(prediction), prediction, nats, 3)


def scores_of(labels: np.ndarray, features: np.ndarray, values: np.ndarray, images_with=(6, 6, 6)) -> FoldScores:
    parts = [Reliability.of(*each, np.zeros_like(each[0], float), 3) for each in zip(labels, features, strict=True)]
    return FoldScores(
        count(labels, features, 3), count(labels, values, 3), Reliability.joined(parts), NAMES, tuple(images_with)
    )


def test_a_fold_has_what_is_best_on_the_others():
    """Of three folds the first one's own favorite is the third option, the others' is the second."""
    label = np.array([[[0, 1, 2, 0, 1, 2]]])
    right = {True: label, False: np.zeros_like(label)}
    best = [2, 1, 1]
    counts = [[count(label, right[option == own], 3) for option in range(3)] for own in best]
    assert choose_favor(counts) == (1, [1, 1, 1])
    assert choose_favor(counts[:2]) == (1, [1, 2])  # equal ones: the first
    assert choose_favor(counts[:1]) == (2, [0])  # nothing else tells


class TestReliability:
    def test_pixels_are_counted_where_they_are_labeled(self):
        label, prediction = np.array([[0, 1, 2, 3]]), np.array([[0, 1, 1, 1]])
        found = Reliability.of(label, prediction, np.array([[0, 0.01, 0.5, 0.5]]), 3)
        assert (found.right.sum(), found.wrong.sum()) == (2, 1)
        assert found.right[0] == 1  # agreement of all members
        assert found.wrong[np.searchsorted(EDGES, 0.5, side="right") - 1] == 1

    def test_the_limit_leaves_out_what_is_wrong(self):
        found = reliability([0.0] * 50 + [0.001] * 50 + [0.4] * 2, [0.4] * 2 + [1.0] * 5)
        assert 0.001 < found.limit() <= 0.4

    def test_no_limit_where_all_is_right(self):
        assert reliability([0.0, 0.1, 2.0], []).limit() is None
        assert Reliability.joined([]).limit() is None

    def test_everything_wrong(self):
        assert reliability([], [0.0, 0.5]).limit() == 0

    @given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), min_size=1, max_size=60))
    def test_above_the_limit_a_third_was_wrong_and_below_it_no_limit_does_so(self, pixels):
        right, wrong = ([nats for nats, ok in pixels if ok is wanted] for wanted in (True, False))
        found = reliability(right, wrong)
        limit = found.limit()

        def share(start: float) -> float:
            above = start <= EDGES
            total = (found.right + found.wrong)[above].sum()
            return found.wrong[above].sum() / total if total else 0.0

        if limit is not None:
            assert share(limit) >= 1 / 3
        assert all(share(edge) < 1 / 3 for edge in EDGES if limit is None or edge < limit)

    @given(st.lists(st.floats(0, 3), min_size=1, max_size=80))
    def test_rows_have_every_pixel_once(self, nats):
        rows = reliability(nats, []).rows()
        assert sum(pixels for _, _, pixels, _ in rows) == len(nats)
        assert len(rows) <= 5
        assert rows[0][0] == 0
        assert rows[-1][1] == float("inf")
        assert all(first[1] == second[0] for first, second in pairwise(rows))

    def test_json(self):
        found = reliability([0.1, 0.2], [0.9])
        again = Reliability.from_json(json.loads(json.dumps(found.to_json())))
        assert np.array_equal(again.right, found.right)
        assert np.array_equal(again.wrong, found.wrong)


class TestFoldScores:
    @pytest.fixture
    def labels(self):
        return np.random.default_rng(0).integers(0, 3, (6, 20, 20))

    def test_perfect_against_guessed(self, labels):
        record = scores_of(labels, labels, np.zeros_like(labels)).record()
        assert record["features"]["miou"] == {"mean": 1, "low": 1, "high": 1}
        assert record["values"]["miou"]["mean"] < 0.2
        assert record["difference"]["kind"] == "helps"
        assert record["weak"] == []
        json.dumps(record, allow_nan=False)

    def test_the_other_way_round(self, labels):
        assert scores_of(labels, np.zeros_like(labels), labels).record()["difference"]["kind"] == "hurts"

    def test_equal_ones_cannot_be_told_apart(self, labels):
        assert scores_of(labels, labels, labels).record()["difference"]["kind"] == "cannot tell"

    def test_intervals_hold_the_score_and_are_wider_for_images_that_differ(self, labels):
        flipped = labels.copy()
        flipped[:2] = (flipped[:2] + 1) % 3
        evenly = labels.copy()
        evenly[:, ::3] = (evenly[:, ::3] + 1) % 3
        uneven, even = (scores_of(labels, each, labels).record()["features"] for each in (flipped, evenly))
        for each in (uneven["miou"], even["miou"]):
            assert each["low"] <= each["mean"] <= each["high"]
        assert uneven["miou"]["high"] - uneven["miou"]["low"] > 2 * (even["miou"]["high"] - even["miou"]["low"])

    def test_copies_of_an_image_are_no_more_evidence_than_the_image(self, labels):
        predicted = labels.copy()
        predicted[:3, ::2] = 0
        alone = scores_of(labels, predicted, labels)
        twice = scores_of(np.concatenate([labels] * 2), np.concatenate([predicted] * 2), np.concatenate([labels] * 2))
        grouped = replace(twice, groups=[*range(len(labels))] * 2).record()
        for key in ("features", "values"):
            assert grouped[key]["miou"] == pytest.approx(alone.record()[key]["miou"])
        for key in ("mean", "low", "high"):
            assert grouped["difference"][key] == pytest.approx(alone.record()["difference"][key])
        assert replace(twice, groups=["one"] * len(twice.counts)).record()["difference"]["kind"] == "cannot tell"

    def test_intervals_of_few_images_hold_the_score_of_many(self):
        """Percentiles of resamples of three images held it in 73 of 100 draws, not 95."""
        generator = np.random.default_rng(1)

        def drawn(images: int) -> Counts:
            missed = (100 * generator.beta(1.5, 1.5, images)).astype(np.int64)
            wrong = np.stack([generator.integers(0, 40, images), missed], axis=1)
            return Counts(np.array([[900, 100]]) - wrong, wrong[:, ::-1].copy(), wrong)

        def record(counts: Counts) -> dict:
            images = len(counts)
            return FoldScores(counts, counts, Reliability.joined([]), ("a", "b"), (images, images)).record()["features"]

        truth, drawings = scores(drawn(100_000)), [record(drawn(3)) for _ in range(100)]
        for score, value in (
            (lambda each: each["miou"], truth.miou),
            (lambda each: each["classes"]["b"], truth.class_iou[1]),
        ):
            held = [score(each)["low"] <= value <= score(each)["high"] for each in drawings]
            assert np.mean(held) > 0.85
            assert all(0 <= score(each)["low"] <= score(each)["high"] <= 1 for each in drawings)

    def test_a_class_in_one_image_or_group_has_no_interval(self, labels):
        """However many images are without it: chance did not vary how well it is found."""
        alone = labels.copy()
        alone[1:] = np.minimum(alone[1:], 1)
        predicted = np.where(np.random.default_rng(2).random(alone.shape) < 0.1, 0, alone)
        scored = scores_of(np.concatenate([alone] * 2), np.concatenate([predicted] * 2), np.concatenate([alone] * 2))
        for each in (scores_of(alone, predicted, alone), replace(scored, groups=[*range(len(labels))] * 2)):
            classes = each.record()["features"]["classes"]
            assert classes["b"]["iou"] > 0
            assert (classes["b"]["low"], classes["b"]["high"]) == (None, None)
            assert classes["a"]["low"] < classes["a"]["iou"] < classes["a"]["high"]

    def test_classes_to_label_more_of(self, labels):
        predicted = np.where(labels == 2, 0, labels)
        assert scores_of(labels, predicted, labels).weak() == ["b"]
        assert scores_of(labels, labels, labels, (6, 1, 6)).weak() == ["a"]
        assert scores_of(np.minimum(labels, 1), np.minimum(labels, 1), labels, (6, 6, 0)).weak() == []

    def test_one_image_tells_nothing_of_others(self, labels):
        record = scores_of(labels[:1], labels[:1], np.zeros_like(labels[:1])).record()
        assert record["difference"]["kind"] == "cannot tell"

    def test_a_class_that_no_label_has(self, labels):
        only = np.minimum(labels, 1)
        record = scores_of(only, only, only).record()
        assert record["features"]["classes"]["b"] == {"iou": None, "low": None, "high": None}
        json.dumps(record, allow_nan=False)
