"""Verdicts on placed defects from planted tests whose differences are known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from evaluations.metrics.segmentation import Counts
from evaluations.segmentation.defect_scores import DefectTest, FalseAlarms
from evaluations.study.comparison import bootstrap_difference
from evaluations.study.defects import arm_record, difference, judge_defects, training_chance

NAMES = ("background", "crack", "spot")
GOOD = 10


def planted(quality: float, *, seeds: int = 3, luck: float = 0.005, alarms: int = 0, images: int = 60, seed: int = 0):
    """Return an arm whose IoU is `quality` in each defect class, give or take `luck` a seed.

    alarms: good images, of ten, with a false crack of 20 pixels.
    """
    rng = np.random.default_rng(seed)
    truth = np.stack([np.full(images, 2000), np.full(images, 100), np.full(images, 300)], axis=1)
    tests = {}
    for repeat in range(seeds):
        share = quality + (0 if luck == 0 else rng.normal(0, luck))
        hits = truth.copy()
        # Of pixels that are only missed, the share found is the IoU.
        hits[:, 1:] = np.round(truth[:, 1:] * share + rng.normal(0, 1, (images, 2))).clip(0, truth[:, 1:])
        missed = truth - hits
        wrong = np.zeros_like(truth)
        wrong[:, 0] = missed[:, 1:].sum(axis=1)
        false = np.zeros((GOOD, 3), np.int64)
        false[:alarms, 1] = 20
        background = np.full((GOOD, 3), 0, np.int64)
        background[:, 0] = 2000
        good = Counts(background - false[:, [1, 0, 0]], false, false[:, [1, 0, 0]] * [1, 0, 0])
        pixels = false.copy()
        pixels[:, 0] = pixels[:, 1:].sum(axis=1)
        found = FalseAlarms(pixels, pixels, np.full(GOOD, 2000))
        tests[repeat] = DefectTest(Counts(hits, wrong, missed), good, found)
    return tests


def judge(placed: dict, baseline: dict, rival: dict):
    return judge_defects(list(placed), baseline, placed, rival)


def test_known_differences_are_found():
    found = difference(planted(0.5, seed=1), planted(0.6, seed=2))
    assert found.mean == pytest.approx(0.1, abs=0.015)
    assert found.low < 0.1 < found.high
    assert found.kind == "helps"
    few = difference(planted(0.5, seed=1), planted(0.6, seed=2), groups=[0] * 30 + [1] * 30 + [None] * GOOD)
    assert (few.mean, few.groups) == (found.mean, 2)
    with_good = difference(
        planted(0.5, seed=1), planted(0.6, seed=2), with_good=True, groups=[0] * 30 + [1] * (30 + GOOD)
    )
    assert (with_good.images, with_good.groups) == (60 + GOOD, 2)
    back = difference(planted(0.6, seed=2), planted(0.5, seed=1))
    assert back.mean == -found.mean
    assert back.kind == "hurts"


def test_only_repeats_that_both_have_are_compared():
    first, second = planted(0.5, seeds=5), planted(0.6, seeds=2, seed=3)
    assert len(difference(first, second).by_seed) == 2
    assert difference(first, {}) is None
    assert difference({7: first[0]}, second) is None


def test_all_arms_of_an_amount_tell_how_far_trainings_lie_apart():
    steady, lucky = planted(0.5, luck=0.001, seed=1), planted(0.6, luck=0.05, seed=2)
    third = planted(0.6, luck=0.001, seed=3)
    alone, together = (
        difference(steady, third, chance=training_chance(arms)) for arms in ([steady, third], [steady, lucky, third])
    )
    assert alone == difference(steady, third)
    assert together.mean == alone.mean
    assert together.low < alone.low
    one = {0: third[0]}
    tentative = difference(steady, one, chance=training_chance([steady, lucky, one]))
    assert tentative.low < difference(steady, one).low  # which holds no chance of training
    assert training_chance([one, {0: steady[0]}]) is None


def test_false_alarms_count_where_good_images_do():
    quiet, loud = planted(0.5, luck=0), planted(0.5, luck=0, alarms=8)
    assert difference(quiet, loud).mean == 0
    assert difference(quiet, loud, with_good=True).mean < 0


def test_a_record_has_means_and_seeds():
    record = arm_record(planted(0.5, seeds=4, alarms=3), NAMES)
    assert record["repeats"] == [0, 1, 2, 3]
    assert record["miou"]["mean"] == pytest.approx(0.5, abs=0.02)
    assert record["miou"]["std"] == pytest.approx(np.std(record["miou"]["by_seed"], ddof=1))
    assert record["false_alarm_images"]["mean"] == pytest.approx(0.3)
    assert list(record["classes"]) == ["crack", "spot"]
    assert record["miou_with_good"]["mean"] < record["miou"]["mean"]
    json.dumps(record, allow_nan=False)


def test_what_classes_are_called_is_summed_over_seeds():
    tests = {repeat: replace(test, confused=np.diag([5, 1, repeat])) for repeat, test in planted(0.5).items()}
    tests[1].confused[1] = (0, 1, 2)
    called = arm_record(tests, NAMES)["called"]
    assert called["crack"] == {"background": 0, "crack": pytest.approx(3 / 5), "spot": pytest.approx(2 / 5)}
    assert called["spot"] == {"background": 0, "crack": 0, "spot": 1}
    assert arm_record({**tests, 3: planted(0.5)[0]}, NAMES)["called"] is None


@pytest.mark.parametrize(
    ("gains", "rivals", "kind", "words"),
    [
        ((0.2, 0.1), (0.0, 0.0), "helps", ("help at 20 and all", "better than copy-paste at 20 and all")),
        ((0.1, 0.0), (0.1, 0.1), "helps", ("help at 20", "worse than copy-paste at all")),
        ((-0.1, -0.2), (0.0, 0.0), "hurts", ("hurt at 20 and all", "worse than copy-paste at 20 and all")),
        ((0.1, -0.1), (0.1, -0.1), "mixed", ("help at 20", "hurt at all")),
        ((0.0, 0.0), (0.0, 0.0), "cannot tell", ("Cannot tell",)),
    ],
)
def test_verdicts_of_planted_results(gains, rivals, kind, words):
    amounts = ("20", "all")
    baseline = {amount: planted(0.4, seed=1) for amount in amounts}
    placed = {amount: planted(0.4 + gain, seed=2) for amount, gain in zip(amounts, gains, strict=True)}
    rival = {amount: planted(0.4 + gain, seed=3) for amount, gain in zip(amounts, rivals, strict=True)}
    verdict = judge(placed, baseline, rival)
    assert verdict.kind == kind
    assert all(word in verdict.headline for word in words)
    assert len(verdict.lines) == 2
    record = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    for amount, gain in zip(amounts, gains, strict=True):
        assert record["differences"][amount]["mean"] == pytest.approx(gain, abs=0.02)
        assert record["differences"][amount]["confidence"] == pytest.approx(0.975)


@pytest.mark.parametrize("gain", [0.2, 0.0, -0.2])
def test_the_headline_names_what_is_judged(gain):
    arms = {"20": planted(0.4 + gain)}, {"20": planted(0.4, seed=5)}, {}
    for placed, baseline in (arms[:2], ({}, {})):
        headline = judge_defects(["20"], baseline, placed, {}, name="painted-over").headline
        assert "painted-over defects" in headline.lower()
        assert "placed" not in headline.lower()


def test_one_seed_is_tentative():
    verdict = judge({"20": planted(0.6, seeds=1)}, {"20": planted(0.4, seeds=1, seed=5)}, {})
    assert verdict.kind == "helps"
    assert "seem to help" in verdict.headline
    assert "tentative" in verdict.lines[0]


def test_amounts_at_which_nothing_was_learned_do_not_count():
    """An eighth of all pixels are spots, so calling all pixels that has a mean IoU of a sixteenth."""
    nothing = {"20": planted(0.01, seed=1), "60": planted(0.4, seed=1)}
    verdict = judge({"20": planted(0.04, seed=2), "60": planted(0.4, seed=2)}, nothing, {})
    assert verdict.differences["20"].kind == "helps"
    assert verdict.kind == "cannot tell"
    assert verdict.headline.startswith("Cannot tell")
    assert "learned" in verdict.lines[0]
    assert "learned" not in verdict.lines[1]


def test_amounts_without_results_are_left_out():
    verdict = judge({"20": planted(0.6), "60": {}}, {"20": planted(0.4, seed=5), "60": planted(0.4)}, {})
    assert list(verdict.differences) == ["20"]
    assert judge({"20": {}}, {"20": planted(0.4)}, {}).kind == "not measured"
    assert judge_defects([], {}, {}, {}).kind == "not measured"


@pytest.mark.parametrize("empty", [0, 3, 60])
def test_images_without_a_class_of_the_score_are_no_evidence(empty: int) -> None:
    """Of three images with defects, the paired t interval, however many without are beside them."""
    hits = np.array([[600, 500, 700], [640, 560, 690]])
    arms = []
    for found in hits:
        right = np.concatenate([np.stack([np.full(3, 9000), found], axis=1), np.tile([10000, 0], (empty, 1))])
        missed = np.concatenate([np.stack([np.zeros(3, int), 1000 - found], axis=1), np.zeros((empty, 2), int)])
        arms.append([Counts(right, missed[:, ::-1].copy(), missed)])
    found = bootstrap_difference(*arms, score="foreground_miou", resamples=5000)
    expected = stats.ttest_rel(*(hits[::-1] / 1000)).confidence_interval(0.95)
    assert (found.groups, found.kind) == (3 + empty, "cannot tell")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0.25)
