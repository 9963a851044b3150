"""`segment` on a pretended GPU: nothing is on the wrong device, and its masks are a CPU's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from colored import FAST, train, write_labeled, write_unlabeled
from parts import lines_of, pixels_of
from pretended_cuda import pretended_cuda

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "images"
    write_unlabeled(folder, 3)
    return folder


@pytest.fixture(scope="module")
def network(images, tmp_path_factory) -> Path:
    return train(images, tmp_path_factory.mktemp("runs") / "network")


@pytest.mark.parametrize("values", [{"flip": True}, {"recipe": "published"}], ids=["fast", "published"])
def test_masks_are_those_of_the_cpu(values, images, network, run, tmp_path):
    published = "recipe" in values
    data = write_labeled(tmp_path / "data", 2 if published else 4)
    own = {**FAST, "classifier_steps": 30, **values}
    if published:  # folds are trained as all images are
        own |= {"classifier_steps": None, "classifier_batch": 1024, "members": 1, "folds": 0}
    common = {"model_path": network, "data_dir": data, "dataset_mode": "multi-class", "image_dir": images, **own}
    with pretended_cuda():
        run("segment", **common, output_dir=tmp_path / "gpu", device="cuda")
    run("segment", **common, output_dir=tmp_path / "cpu", device="cpu")
    gpu, cpu = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("gpu", "cpu"))
    if not published:
        means = [each["scores"]["features"]["miou"]["mean"] for each in (gpu, cpu)]
        assert means[0] == pytest.approx(means[1], abs=0.01)
    for line in lines_of(tmp_path / "cpu/predicted"):
        first, second = (pixels_of(tmp_path / name / "predicted" / line["mask"]) for name in ("gpu", "cpu"))
        assert np.mean(first == second) > 0.98
