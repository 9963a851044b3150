"""From check to evaluate on 12-bit images whose defects are too small: what is said, and one range everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from odd_images import write_png
from PIL import Image
from tiny import TINY

from guided_diffusion import cli
from guided_diffusion.config.load import load_config
from guided_diffusion.pipelines.evaluation.data import load_data, scan_data
from guided_diffusion.pipelines.evaluation.options import resolve_options
from guided_diffusion.runtime.checkpoint import BEST, load_checkpoint
from guided_diffusion.samples.reader import find_samples

RANGE = [0, 4095]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Six pairs a split of 64 pixels, 12 bits in 16; two masks have a defect of 30 pixels, the others one of 2."""
    root = tmp_path_factory.mktemp("deep")
    for split, count in (("train", 6), ("test", 6)):
        for index in range(count):
            rng = np.random.default_rng(index)
            mask = np.zeros((64, 64), np.uint8)
            side = 30 if index < 2 else 2
            mask[16 : 16 + side, 20 : 20 + side] = 255
            image = (1500 + 1500 * (mask > 0) + rng.normal(0, 100, mask.shape)).astype(np.uint16)
            write_png(root / split / "images" / f"p{index}.png", image)
            write_png(root / split / "masks" / f"p{index}.png", mask)
    return root


@pytest.fixture(scope="module")
def run_folder(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "deep"
    values = {**TINY, "dataset_mode": "binary", "data_dir": str(data), "output_dir": str(folder), "max_epochs": 1}
    config = folder.parent / "train.json"
    config.write_text(json.dumps({**values, "image_range": RANGE, "image_channels": 1}))
    assert cli.main(["train", "-c", str(config)]) == 0
    return folder


def warnings_of(shown: str) -> list[str]:
    return [line for line in shown.splitlines() if line.startswith("warning: ")]


def test_check_shows_what_is_not_seen(data, tmp_path, isdm):
    values = {"data_dir": data, "dataset_mode": "binary", "image_size": 16, "output_dir": tmp_path / "check"}
    code, shown, _ = isdm("check", **values)
    assert code == 0
    said = warnings_of(shown)
    assert sum("16-bit" in line and "[0, 4095]" in line for line in said) == 2  # both splits
    assert sum("4 of the 6 masks" in line and "image_size" in line for line in said) == 2
    for split in ("train", "test"):
        path = tmp_path / "check" / f"histogram_{split}.png"
        assert str(path) in shown
        assert path.is_file()
    assert "16-bit" not in isdm("check", **values, image_range=RANGE)[1]


@pytest.mark.slow
def test_the_range_is_that_of_the_checkpoint(data, run_folder, tmp_path, isdm):
    assert load_checkpoint(run_folder / BEST).config["image_range"] == RANGE
    places = {"model_path": run_folder, "data_dir": data, "results_path": tmp_path / "s", "steps": 2}
    code, _, errors = isdm("sample", **places, image_range="auto")
    assert code == 2
    assert "image_range" in errors[0]
    other = {**TINY, "dataset_mode": "binary", "data_dir": data, "output_dir": tmp_path / "r", "max_epochs": 2}
    other |= {"resume_checkpoint": run_folder / BEST, "image_channels": 1}
    code, _, errors = isdm("train", **other)
    assert code == 2
    assert "image_range" in errors[0]
    assert isdm("train", **other, image_range="percentile")[0] == 0  # as the new data may need it


@pytest.mark.slow
def test_samples_and_their_evaluation(data, run_folder, tmp_path, isdm):
    places = {"model_path": run_folder, "data_dir": data, "results_path": tmp_path / "samples"}
    code, shown, _ = isdm("sample", **places, num_samples=9, steps=2)
    assert code == 0
    (written,) = (line for line in warnings_of(shown) if str(tmp_path / "samples") in line)
    masks = [np.asarray(Image.open(path)) for path in (tmp_path / "samples").rglob("masks/*.png")]
    empty = sum(not mask.any() for mask in masks)
    assert f"{empty} of 9" in written
    assert empty == 5  # p2 to p5 once more than p0 to p2: 9 samples of 6 masks
    assert not any("16-bit" in line for line in warnings_of(shown))
    folder = find_samples(tmp_path / "samples")
    options = {"data_dir": str(data), "synthetic_dir": str(tmp_path / "samples"), "output_dir": str(tmp_path / "e")}
    config = resolve_options(load_config("evaluate", {**options, "study": False, "agreement": False}), folder)
    assert config.view.image_range == tuple(RANGE)
    loaded = load_data(scan_data(config, folder), compared_with_test=False)
    # The real images by their range, the samples as they are.
    assert loaded.sets.test.images.mean() == pytest.approx(255 * 1500 / 4095, rel=0.15)
    stored = np.mean([np.asarray(Image.open(path)).mean() for path in folder.folder.rglob("images/*.png")])
    assert loaded.sets.samples.images.mean() == pytest.approx(stored, rel=0.05)
    assert any("4 of the 6 masks" in line for line in loaded.warnings)


@pytest.mark.parametrize("value", [[4095, 0], [7, 7], [0], [-1, 5], [0, 70000], "half", 255, [0, 1.5]])
def test_a_wrong_range_is_refused(data, tmp_path, isdm, value):
    code, _, errors = isdm(
        "check", data_dir=data, dataset_mode="binary", output_dir=tmp_path / "check", image_range=value
    )
    assert code == 2
    assert errors[0].startswith("error: image_range")
    assert not (tmp_path / "check").exists()
