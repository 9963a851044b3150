"""`demo` takes the built-in dataset through every stage, and does not repeat what is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from guided_diffusion.actions import demo as demo_action
from guided_diffusion.config import demo

pytestmark = pytest.mark.slow

STAGES = ["check", "train", "finetune", "sample", "sample_synthetic", "evaluate"]
MADE = ("dataset/*/*/*", "*/*.pt", "samples/*/*", "synthetic/*/*", "evaluate/study/fpn-*")
"""What takes time to make; the reports and pictures beside it are made again."""


def times_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for pattern in MADE for path in folder.glob(pattern)}


def test_every_stage_runs_and_is_not_repeated(isdm, tmp_path, monkeypatch):
    for module, name, value in ((demo, "TRAIN_PAIRS", 8), (demo, "TEST_PAIRS", 4), (demo_action, "SHOWN", 4)):
        monkeypatch.setattr(module, name, value)
    folder = tmp_path / "demo"
    code, shown, errors = isdm("demo", output_dir=str(folder), max_epochs=1)
    assert code == 0, errors
    assert [line.split()[1].rstrip(":") for line in shown.splitlines() if line.startswith("--- ")] == STAGES
    assert len((folder / "samples" / "manifest.jsonl").read_text().splitlines()) == 4
    assert len((folder / "synthetic" / "manifest.jsonl").read_text().splitlines()) == 8
    assert json.loads((folder / "evaluate" / "report.json").read_text())["study"]["seeds"] == 1
    assert (folder / "evaluate" / "report.html").is_file()
    with Image.open(folder / "demo.png") as picture:
        assert picture.width > 6 * 128
    for name in STAGES:
        assert json.loads((folder / "configs" / f"{name}.json").read_text())
    before = times_of(folder)
    assert len([path for path in before if path.match("train/*.pt") or path.match("finetune/*.pt")]) == 4
    assert len([path for path in before if path.match("study/fpn-*.json")]) == 6
    assert isdm("demo", output_dir=str(folder), max_epochs=1)[0] == 0
    assert times_of(folder) == before
