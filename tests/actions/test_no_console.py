"""Processes without a console (pythonw, services, cron): nothing is printed, everything else happens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import TINY

from guided_diffusion import cli
from guided_diffusion.runtime.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="closes descriptors by a shell")
def test_training_with_closed_streams_ends_as_any_other(lemons, tmp_path):
    """The one training of an interpreter of its own, with workers and to its very end."""
    values = {**TINY, "data_dir": str(lemons), "max_epochs": 1, "num_workers": 2}
    for name in ("closed", "open"):
        (tmp_path / f"{name}.json").write_text(json.dumps({**values, "output_dir": str(tmp_path / name)}))
    closed = f'"{sys.executable}" main.py train -c "{tmp_path}/closed.json" <&- >&- 2>&-'
    assert subprocess.run(["bash", "-c", closed], cwd=ROOT, timeout=120).returncode == 0
    assert cli.main(["train", "-c", str(tmp_path / "open.json")]) == 0
    states = [load_checkpoint(tmp_path / name / "last.pt").model for name in ("closed", "open")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])


@pytest.mark.slow
def test_streams_that_are_not_there(lemons, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    arguments = [f"data_dir={lemons}", "dataset_mode=multi-class", f"output_dir={tmp_path}", "image_size=16"]
    assert cli.main(["check", *(part for text in arguments for part in ("--set", text))]) == 0
    assert cli.main(["no-such-action"]) == 2
