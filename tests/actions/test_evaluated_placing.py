"""`evaluate` on the results of `place`: whole images of several sizes, at the depth of their good images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from error_lines import check_error
from odd_images import write_png
from parts import (
    NAMES,
    pixels_of,
    write_good,
)

pytestmark = pytest.mark.slow

TINY_STUDY = {
    "image_size": 32,
    "architectures": "fpn",
    "encoder": "tu-lcnet_050",
    "encoder_weights": "none",
    "ratios": [0.5],
    "seeds": 1,
    "train_steps": 1,
    "batch_size": 2,
    "inception_weights": "none",
    "lpips_weights": "none",
    "report_images": 2,
}


@pytest.fixture
def evaluate(parts, tmp_path, isdm):
    def run(folder: Path, **values) -> tuple[int, str, list[str]]:
        base = {"data_dir": parts, "synthetic_dir": folder, "output_dir": tmp_path / "report"}
        return isdm("evaluate", **{**TINY_STUDY, **base, **values})

    return run


def test_placed_images_are_evaluated(place, evaluate, tmp_path):
    folder, _ = place("placed", num_samples=8)
    code, shown, errors = evaluate(folder)
    assert code == 0, errors
    assert "unknown" not in shown
    record = json.loads((tmp_path / "report/report.json").read_text())
    assert record["options"]["resize"] == "pad"
    assert record["options"]["mask_resize"] == "area"
    assert record["options"]["image_range"] == "auto"
    assert record["memorisation"]


def test_healed_images_are_traced_to_their_images(place, evaluate):
    folder, _ = place("healed", erase=True, good_dir="")
    code, _, errors = evaluate(folder, study=False, agreement=False)
    assert code == 0, errors


def test_a_size_has_to_be_given(place, evaluate):
    folder, _ = place("placed", num_samples=2)
    code, _, errors = evaluate(folder, image_size=None)
    assert code == 2
    check_error(errors[0], "image_size", folder)


def test_shapes_of_masks_of_the_test_split_are_refused(place, evaluate, isdm, parts, tmp_path):
    data = shutil.copytree(parts, tmp_path / "parts")
    for path in (data / "test/masks").iterdir():  # those of `parts` are training masks, too
        write_png(path, np.ascontiguousarray(pixels_of(path)[::-1]))
    values = {"data_dir": data, "dataset_mode": "multi-class", "num_masks": 2, "data_split": "test"}
    code, _, errors = isdm("masks", **values, results_path=tmp_path / "new")
    assert code == 0, errors
    folder, _ = place("placed", data_dir="", bank_dir=tmp_path / "new", num_samples=4)
    code, _, errors = evaluate(folder, data_dir=data)
    assert code == 2
    check_error(errors[0], folder)


def test_good_images_of_the_test_split_are_refused(place, evaluate, parts):
    folder, _ = place("placed", good_dir=parts / "test/images", num_samples=4)
    code, _, errors = evaluate(folder)
    assert code == 2
    check_error(errors[0], folder, "4 of 4")


def test_deep_images_are_read_in_the_range_of_the_model(place, tmp_path, parts):
    """As their good images are: 1000 is black, 60000 white."""
    from guided_diffusion.config.evaluate import ViewOptions
    from guided_diffusion.data.masks.encoding import LabelEncoding
    from guided_diffusion.pipelines.evaluation.data import View
    from guided_diffusion.samples.reader import find_samples, open_samples

    good = write_good(tmp_path / "deep", {"a": (40, 56)}, kind=np.uint16)
    folder = find_samples(place("deep_results", good_dir=good)[0])
    encoding = LabelEncoding.identity(4, NAMES).with_ignore()
    options = ViewOptions(image_size=(40, 56), image_channels=1, image_range=(1000, 60000), resize="squash")
    read = View(encoding, options, 0, folder).read(open_samples(folder, encoding, 1), samples=folder)
    stored = pixels_of(folder.folder / "images/a.png").astype(float)
    assert np.abs(read.images[0, ..., 0] - ((stored - 1000).clip(0) * 255 / 59000)).max() <= 1
