"""`demo` takes the built-in dataset through every stage, and does not repeat what is done."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from guided_diffusion.config import demo

pytestmark = pytest.mark.slow


def test_every_stage_runs_and_is_not_repeated(isdm, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TRAIN_PAIRS", 16)
    monkeypatch.setattr(demo, "TEST_PAIRS", 8)
    folder = tmp_path / "demo"
    code, shown, errors = isdm("demo", output_dir=str(folder), max_epochs=1)
    assert code == 0, errors
    assert [line.split()[1].rstrip(":") for line in shown.splitlines() if line.startswith("--- ")] == [
        "check",
        "train",
        "finetune",
        "sample",
        "sample_synthetic",
        "evaluate",
    ]
    assert len((folder / "samples" / "manifest.jsonl").read_text().splitlines()) == 8
    assert len((folder / "synthetic" / "manifest.jsonl").read_text().splitlines()) == 16
    assert "one seed" in (folder / "evaluate" / "report.html").read_text()
    with Image.open(folder / "demo.png") as picture:
        assert picture.width > 6 * 128
    for name in ("check", "train", "finetune", "sample", "sample_synthetic", "evaluate"):
        assert json.loads((folder / "configs" / f"{name}.json").read_text())
    before = (folder / "train" / "last.pt").read_bytes()
    code, shown, _ = isdm("demo", output_dir=str(folder), max_epochs=1)
    assert code == 0
    assert shown.count("this run is finished") == 2
    assert "8 samples, 8 are there already" in shown
    assert "6 of 6 segmentation models are there already" in shown
    assert (folder / "train" / "last.pt").read_bytes() == before
