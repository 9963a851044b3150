"""Mask agreement against numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from painted import NearestColor, paint, scripted

from evaluations.metrics.agreement import SCORE, AgreementMetric, agreement, sample_scores
from evaluations.metrics.base import EvaluationSets, MaskGroups, sample_captions
from evaluations.metrics.segmentation import count
from evaluations.report.page import Sheet
from evaluations.segmentation.external import read_segmenter
from evaluations.segmentation.segmenter import external_segmenter
from evaluations.sets import ImageSet

# Label maps of 2 x 4 pixels, 3 classes; 3 marks pixels of no class.
CASES = {
    # name: (mask, prediction, score)
    "found": ([[0, 0, 1, 1], [0, 0, 1, 1]], [[0, 0, 1, 1], [0, 0, 1, 1]], 1.0),
    "half found": ([[0, 0, 1, 1], [0, 0, 1, 1]], [[0, 0, 0, 1], [0, 0, 0, 1]], 0.5),
    "missed": ([[0, 0, 1, 1], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]], 0.0),
    "one of two classes": ([[1, 1, 2, 2], [0, 0, 0, 0]], [[1, 1, 0, 0], [0, 0, 0, 0]], 0.5),
    "another class instead": ([[1, 1, 0, 0], [0, 0, 0, 0]], [[2, 2, 0, 0], [0, 0, 0, 0]], 0.0),
    "spread too far": ([[1, 1, 0, 0], [0, 0, 0, 0]], [[1, 1, 1, 1], [0, 0, 0, 0]], 0.5),
    "background alone": ([[0, 0, 0, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]], 1.0),
    "seen where nothing is": ([[0, 0, 0, 0], [0, 0, 0, 0]], [[1, 1, 0, 0], [0, 0, 0, 0]], 0.75),
    "ignored pixels": ([[1, 1, 3, 3], [0, 0, 3, 3]], [[1, 1, 2, 2], [0, 0, 1, 1]], 1.0),
    "nothing labeled": ([[3, 3, 3, 3], [3, 3, 3, 3]], [[0, 1, 2, 0], [0, 0, 0, 0]], 1.0),
}


@pytest.mark.parametrize(("mask", "prediction", "score"), CASES.values(), ids=CASES.keys())
def test_score_of_one_sample(mask, prediction, score):
    counts = count(np.array([mask]), np.array([prediction]), 3)
    assert sample_scores(counts) == pytest.approx([score])


@pytest.mark.parametrize(("mask", "prediction", "score"), CASES.values(), ids=CASES.keys())
def test_the_background_may_be_another_class(mask, prediction, score):
    others = np.array([1, 2, 0, 3])  # 0 is called 1, 1 is 2, 2 is 0
    counts = count(others[[mask]], others[[prediction]], 3)
    found = agreement(counts, background=1)
    assert found.score == pytest.approx([score])
    assert found.background_only.item() == ((np.array(mask) == 0) | (np.array(mask) == 3)).all()


def test_a_set_of_samples():
    masks, predictions, scores = (np.array([case[part] for case in CASES.values()]) for part in range(3))
    found = agreement(count(masks, predictions, 3))
    assert found.score == pytest.approx(scores)
    shown = np.array([(mask == 1).any() or (mask == 2).any() for mask in masks])
    assert (found.background_only == ~shown).all()
    assert found.summary()["mean"] == pytest.approx(scores[shown].mean())
    assert found.summary()["median"] == pytest.approx(np.median(scores[shown]))
    assert (found.summary()["counted"], found.summary()["bare"]) == (7, 3)
    one_of_two = list(CASES).index("one of two classes")
    assert found.by_class[one_of_two] == pytest.approx([4 / 6, 1, 0])
    assert found.scores.present.all()


# ------------------------------------------------------------------------------- classes that it does not know


def sets_of(kinds: str, known: str, folder: Path) -> EvaluationSets:
    """Return one painted sample for each class in `kinds` on background 0, and a segmenter of `known`."""
    labels = np.zeros((len(kinds), 16, 16), np.uint8)
    for label, kind in zip(labels, kinds, strict=True):
        label[4:8, 4:12] = int(kind)
    images = ImageSet(paint(labels), labels, tuple(map(str, range(len(labels)))), 4)
    path, cpu = scripted(folder / "nearest.pt", NearestColor()), torch.device("cpu")
    file = read_segmenter(str(path), "", size=(16, 16), form="unit", device=cpu)
    table, names = {k: k if str(k) in known else None for k in range(4)}, ("ground", "spot", "crack", "hole")
    segmenter = external_segmenter(file, table, Path("table.json"), names, batch_size=2, device=cpu)
    none = np.full(len(images), -1)
    groups = MaskGroups((), lambda number: images.images, "")
    return EvaluationSets(None, images, images, names, 0, none, none, "", lambda: groups, segmenter)


class TestUnknownClasses:
    def test_a_sample_of_them_alone_has_no_score(self, tmp_path):
        found = AgreementMetric(0.5, 4).measure(sets_of("1203", "012", tmp_path))
        scores = found.sample_scores[SCORE]
        assert np.isnan(scores).tolist() == [False, False, False, True]
        assert scores[:3].tolist() == [1, 1, 1]
        assert not scores[3] >= 0  # so no threshold lets it pass
        record = json.loads(json.dumps(found.record, allow_nan=False))
        assert record["by_sample"]["3"]["score"] is None
        assert [record["samples"][key] for key in ("counted", "bare", "unknown")] == [2, 1, 1]
        assert "unknown" not in AgreementMetric(0.5, 4).measure(sets_of("120", "012", tmp_path)).record["samples"]

    def test_it_is_in_no_picture_of_the_worst_and_the_best(self, tmp_path):
        sets = sets_of("3123", "012", tmp_path)
        found = AgreementMetric(None, 8).measure(sets)
        sheets = [each for each in found.section.figures if isinstance(each, Sheet)]
        assert [len(sheet.groups) for sheet in sheets] == [2, 2]
        assert "nan" not in sample_captions(found.sample_scores, np.arange(4))

    @pytest.mark.slow
    def test_no_sample_may_have_a_score(self, tmp_path):
        found = AgreementMetric(0.5, 4).measure(sets_of("33", "012", tmp_path))
        assert (found.record["samples"]["counted"], found.record["samples"]["mean"]) == (0, None)
        assert "nan" not in " ".join([*found.findings, *found.warnings, *(text for _, text in found.facts)])
        json.dumps(found.record, allow_nan=False)

    def test_masks_of_an_unknown_background_have_none(self, tmp_path):
        found = AgreementMetric(None, 4).measure(sets_of("10", "123", tmp_path))
        assert np.isnan(found.sample_scores[SCORE]).tolist() == [False, True]
        assert found.record["samples"]["bare"] == 1
