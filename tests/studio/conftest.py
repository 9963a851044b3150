"""The studios that the tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import command_line
import pytest
from studio_client import Client, studio
from tiny import TINY


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """The results_path of `page`."""
    return tmp_path_factory.mktemp("studio") / "accepted"


@pytest.fixture(scope="module")
def page(trained, lemons, results) -> Iterator[Client]:
    """A studio on the tiny run: masks of 16 px, five classes, no judge, no good images."""
    with studio(model_path=trained, data_dir=lemons, results_path=results) as client:
        yield client


@pytest.fixture(scope="session")
def windows(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A run that fills holes, its dataset of lemons of 48 px, and good lemons on their table; windows show half."""
    from guided_diffusion.data.lemons import write_demo_dataset, write_good_lemons

    root = tmp_path_factory.mktemp("windows")
    write_demo_dataset(root / "lemons", num_train=4, num_test=2, size=48)
    write_good_lemons(root / "good", count=2, size=48, seed=0)
    values = {**TINY, "resize": "window", "scale": 0.5, "inpaint": True, "max_epochs": 1}
    assert command_line.run("train", **values, data_dir=root / "lemons", output_dir=root / "run") == 0
    return root / "run", root / "lemons", root / "good"
