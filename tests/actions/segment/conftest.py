"""A dataset of colors, a network, and finished runs of `segment`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import command_line
import numpy as np
import pytest
from colored import FAST, train, write_labeled, write_unlabeled


@pytest.fixture(scope="session")
def labeled(tmp_path_factory) -> Path:
    return write_labeled(tmp_path_factory.mktemp("data") / "labeled")


@pytest.fixture(scope="session")
def unlabeled(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """The folder, and the label map of each image by its stem."""
    folder = tmp_path_factory.mktemp("data") / "unlabeled"
    return folder, write_unlabeled(folder)


@pytest.fixture(scope="session")
def network(unlabeled, tmp_path_factory) -> Path:
    return train(unlabeled[0], tmp_path_factory.mktemp("runs") / "network")


@pytest.fixture(scope="session")
def common(labeled, unlabeled, network) -> dict:
    """The keys of a run without `output_dir`."""
    values = {"model_path": network, "data_dir": labeled, "dataset_mode": "multi-class", "image_dir": unlabeled[0]}
    return {**FAST, **values}


@pytest.fixture(scope="session")
def plain(common, tmp_path_factory) -> Path:
    """The folder of a finished run with the common keys, which nobody changes."""
    folder = tmp_path_factory.mktemp("runs") / "plain"
    assert command_line.run("segment", **common, output_dir=folder) == 0
    return folder


@pytest.fixture
def keys(common, tmp_path) -> dict:
    return {**common, "output_dir": tmp_path / "out"}


@pytest.fixture
def segment(keys, isdm) -> Callable[..., tuple[Path, dict, str]]:
    """Run `segment`; returns the output_dir, the report's record and the printed text."""

    def run(**values) -> tuple[Path, dict, str]:
        used = {**keys, **values}
        code, shown, errors = isdm("segment", **{key: value for key, value in used.items() if value is not None})
        assert code == 0, errors
        folder = Path(used["output_dir"])
        return folder, json.loads((folder / "report.json").read_text()), shown

    return run
