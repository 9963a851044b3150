"""What the runs on a pretended GPU have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from guided_diffusion import cli


@pytest.fixture
def run():
    """Run the command line in this process: `run("train", key=value)`; it must end well."""

    def run(action: str, **values: Any) -> None:
        settings = [f"--set={key}={json.dumps(value, default=str)}" for key, value in values.items()]
        assert cli.main([action, *settings]) == 0

    return run


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory) -> Path:
    """Weights of a segmentation model of five outputs, which nobody has trained."""
    from evaluations.segmentation.models import build_segmenter

    path = tmp_path_factory.mktemp("segmenter") / "fpn.pt"
    torch.save(build_segmenter("fpn", "resnet18", num_classes=5, seed=0).state_dict(), path)
    return path
