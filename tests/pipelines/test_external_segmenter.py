"""An external segmenter that is a program: whoever starts it is told that it is run."""

from __future__ import annotations

import pytest
import torch
from painted import NearestColor, scripted

from guided_diffusion.config.load import load_config
from guided_diffusion.pipelines.evaluation.segmenter import read_external

BASE = {"data_dir": "d", "dataset_mode": "multi-class", "synthetic_dir": "s", "output_dir": "o", "image_size": 32}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_program_is_announced_before_it_runs(tmp_path, capsys):
    path = scripted(tmp_path / "nearest.pt", NearestColor())
    assert read_external(load_config("evaluate", {**BASE, "segmenter": str(path)}), torch.device("cpu"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if str(path) in line]
    assert "program" in line


def test_without_a_segmenter_nothing_is_said(capsys):
    assert read_external(load_config("evaluate", BASE), torch.device("cpu")) is None
    assert not capsys.readouterr().out
