"""What the runs on a pretended GPU have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import command_line
import pytest
import torch


@pytest.fixture
def run():
    """Run the command line in this process: `run("train", key=value)`; it must end well."""

    def run(action: str, **values: Any) -> None:
        assert command_line.run(action, **values) == 0

    return run


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory) -> Path:
    """Weights of a segmentation model of five outputs, which nobody has trained."""
    from evaluations.segmentation.models import build_segmenter

    path = tmp_path_factory.mktemp("segmenter") / "fpn.pt"
    torch.save(build_segmenter("fpn", "resnet18", num_classes=5, seed=0).state_dict(), path)
    return path
