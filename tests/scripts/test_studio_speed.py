"""The measured speed of the studio: the parts that need no trained network."""

from __future__ import annotations

import re

from scripts.measure.studio_speed import SIDES, round_trips, span


def test_labels_come_back_and_are_timed():
    rows = round_trips(2)
    assert len(rows) == len(SIDES)
    for side, row in zip(SIDES, rows, strict=True):
        least, most = map(float, re.search(rf"{side} px \| \S+ \((\S+) to (\S+)\) ms", row).groups())
        assert 0 < least <= most


def test_a_span_is_median_and_range():
    assert span([3.0, 1.0, 2.0]) == "2 (1 to 3)"
