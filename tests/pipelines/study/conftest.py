"""A dataset of defects, good images, and a folder of `place` in which they are put."""

from __future__ import annotations

from pathlib import Path

import command_line
import pytest
from parts import write_good, write_parts
from tiny import TINY

GOOD_SIZES = {"a": (40, 56), "b": (44, 60), "c": (41, 57), "d": (52, 50)}
WINDOWS = {**TINY, "resize": "window", "inpaint": True, "image_channels": 1, "max_epochs": 1}


@pytest.fixture(scope="session")
def parts(tmp_path_factory) -> Path:
    return write_parts(tmp_path_factory.mktemp("data") / "parts", pairs=8)


@pytest.fixture(scope="session")
def good_parts(tmp_path_factory) -> Path:
    """Good images in train/ and others in test/."""
    folder = tmp_path_factory.mktemp("data") / "good"
    write_good(folder / "train", GOOD_SIZES)
    write_good(folder / "test", {"e": (45, 61), "f": (47, 58)})
    return folder


@pytest.fixture(scope="session")
def placed_parts(parts, good_parts, tmp_path_factory) -> Path:
    """Twelve images of a network that sees them at half their size."""
    folder = tmp_path_factory.mktemp("runs")
    train = {**WINDOWS, "scale": 0.5, "data_dir": parts, "output_dir": folder / "train"}
    assert command_line.run("train", **train) == 0
    place = {"model_path": folder / "train", "data_dir": parts, "good_dir": good_parts / "train", "num_samples": 12}
    place |= {"results_path": folder / "placed", "steps": 2, "hole_margin": 3}
    assert command_line.run("place", **place) == 0
    return folder / "placed"
