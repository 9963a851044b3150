"""What several files take: weights of published networks, and networks and images for `place`."""

from __future__ import annotations

from pathlib import Path

import pytest
from box_model import box_model
from parts import FEW_STEPS, PLATE, SIZES, train, write_good, write_parts


@pytest.fixture(scope="session")
def inception(tmp_path_factory) -> Path:
    from random_networks import random_inception

    return random_inception(tmp_path_factory.mktemp("weights") / "inception.pt")


@pytest.fixture(scope="session")
def alexnet(tmp_path_factory) -> Path:
    from random_networks import random_alexnet

    return random_alexnet(tmp_path_factory.mktemp("weights") / "alexnet.pt")


@pytest.fixture(scope="session")
def swav(tmp_path_factory) -> Path:
    import torch
    from recorded import record_of, weights_of

    path = tmp_path_factory.mktemp("weights") / "swav.pth.tar"
    torch.save({"state_dict": weights_of(record_of("ddpmseg_swav")["state_dict"])}, path)
    return path


@pytest.fixture(scope="session")
def box_run(lemons, tmp_path_factory) -> Path:
    """A model of the boxes of the lemons."""
    return box_model(lemons, tmp_path_factory.mktemp("runs") / "boxes")


@pytest.fixture(scope="session")
def parts(tmp_path_factory) -> Path:
    return write_parts(tmp_path_factory.mktemp("data") / "parts")


@pytest.fixture(scope="session")
def painter(parts, tmp_path_factory) -> Path:
    """An inpainting network of gray windows at full scale."""
    return train(parts, tmp_path_factory.mktemp("runs") / "painter")


@pytest.fixture(scope="session")
def halving(parts, tmp_path_factory) -> Path:
    """One that sees the images at half their size."""
    return train(parts, tmp_path_factory.mktemp("runs") / "halving", scale=0.5)


@pytest.fixture(scope="session")
def color_painter(tmp_path_factory) -> Path:
    data = write_parts(tmp_path_factory.mktemp("data") / "color", channels=3)
    return train(data, tmp_path_factory.mktemp("runs") / "color", image_channels=3)


@pytest.fixture(scope="session")
def plates(tmp_path_factory) -> Path:
    """A dataset of defects on plates."""
    return write_parts(tmp_path_factory.mktemp("data") / "plates", host=PLATE)


@pytest.fixture(scope="session")
def plate_painter(plates, tmp_path_factory) -> Path:
    return train(plates, tmp_path_factory.mktemp("runs") / "plates")


@pytest.fixture
def good(tmp_path) -> Path:
    return write_good(tmp_path / "good", SIZES)


@pytest.fixture
def place(painter, parts, good, tmp_path, isdm):
    """Run `place` with few steps; `place("name", key=value)` returns the results folder and the printed text."""

    def run(name: str, **values) -> tuple[Path, str]:
        base = {"model_path": painter, "data_dir": parts, "good_dir": good, "results_path": tmp_path / name}
        code, shown, errors = isdm("place", **{**base, **FEW_STEPS, **values})
        assert code == 0, errors
        return tmp_path / name, shown

    return run
