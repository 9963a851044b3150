"""The summary of a study: which trainings tell how far chance goes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from evaluations.metrics.segmentation import Counts
from evaluations.study.run import Study
from evaluations.study.settings import Run, settings_of
from evaluations.study.summary import summarize

HITS = {
    "real": [50, 53, 56],
    "mix_1": [60, 63, 66],  # nearly as much above real in every seed: these two alone tell of little chance
    "copy_paste": [58, 55, 61],
    "augmented": [57, 54, 60],
    "synthetic": [10, 60, 90],
}
"""Right pixels of 100 of each of two classes, by seed; all images are alike, so only trainings differ."""
IOU = {name: np.array(hits) / (200 - np.array(hits)) for name, hits in HITS.items()}


@pytest.fixture
def record() -> dict:
    settings, results = settings_of((1,)), {}
    for setting in settings:
        for repeat, hits in enumerate(HITS[setting.name]):
            right = np.full((12, 2), hits)
            counts = Counts(right, 100 - right, 100 - right).to_json()
            found = {"counts": counts, "validation_miou": 0.5, "best_step": 1}
            results[Run("fpn", setting, repeat).key] = {**found, "real": 20, "synthetic": 0}
    plan = SimpleNamespace(seed=0, training=SimpleNamespace(steps=1))
    return summarize(Study(None, plan, ("fpn",), tuple(settings), 3, True, False, results), ["rest", "thing"], {})  # type: ignore


def test_all_settings_with_real_images_tell_how_far_trainings_lie_apart(record):
    kept = np.array([IOU[name] for name in IOU if name != "synthetic"])
    left = kept - kept.mean(1, keepdims=True) - kept.mean(0, keepdims=True) + kept.mean()
    error = np.sqrt(2 / 3 * (left**2).sum() / 6)
    expected = (IOU["mix_1"] - IOU["real"]).mean() + np.array([-1, 1]) * error * stats.t.ppf(0.975, 6)
    entry = record["architectures"]["fpn"]
    (mix,) = entry["verdict"]["differences"].values()
    arms = {arm["name"]: arm for arm in entry["arms"]}
    for found in (mix, arms["mix_1"]["difference"]):
        assert [found["low"], found["high"]] == pytest.approx(expected, rel=0.02)
    found = entry["rivals"]["difference"]
    assert found["high"] - found["low"] == pytest.approx(np.ptp(expected), rel=0.02)


def test_trainings_without_real_images_tell_of_themselves_alone(record):
    (synthetic,) = (arm for arm in record["architectures"]["fpn"]["arms"] if arm["name"] == "synthetic")
    expected = stats.ttest_rel(IOU["synthetic"], IOU["real"]).confidence_interval(0.95)
    assert synthetic["difference"]["low"] == pytest.approx(expected.low, rel=0.02)
    assert synthetic["difference"]["high"] == pytest.approx(expected.high, rel=0.02)
