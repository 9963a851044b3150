"""The table of errors of docs/formats.md."""

from __future__ import annotations

import pytest

from scripts.measure.export_errors import measure


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_formats_are_exact_and_readers_of_pixel_centers_lose_borders(lemons):
    rows = {(kind, reader): wrong for kind, reader, wrong, _ in measure(str(lemons), "multi-class")}
    beside = rows.pop(("yolo", "a reader of pixel centers"))
    assert len(rows) == 10
    assert set(rows.values()) == {0}
    assert beside > 0
