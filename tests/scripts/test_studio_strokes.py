"""The table of what painting costs in the studio's page."""

from __future__ import annotations

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from guided_diffusion.runtime.errors import DataError
from scripts.measure import page_browser, studio_strokes


@pytest.mark.slow
def test_every_kind_of_work_is_measured():
    try:
        figures = studio_strokes.measure([64, 128], repeats=3)
    except DataError as error:
        pytest.skip(str(error))
    assert list(figures) == [64, 128]
    for times in figures.values():
        assert times.keys() == studio_strokes.COLUMNS.keys()
        assert all(0 <= value < 10_000 for value in times.values())
        assert sum(times.values()) > 0
    lines = studio_strokes.table(figures).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {len(studio_strokes.COLUMNS) + 2}


def test_a_missing_browser_is_one_line(monkeypatch):
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(page_browser.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="CHROMIUM: is not set"), page_browser.headless():
        pass
