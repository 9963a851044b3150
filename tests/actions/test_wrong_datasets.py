"""Datasets that cannot be used: one line that names file or key, what was found and what to do; exit code 2."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from error_lines import check_error
from PIL import Image
from tiny import TINY

from guided_diffusion.runtime.checkpoint import LAST

Break = Callable[[Path], dict]


def gray(path: Path, array) -> None:
    Image.fromarray(np.asarray(array)).save(path)


def first(data: Path, kind: str) -> Path:
    return data / "train" / kind / "lemon_0000.png"


def missing_folder(data):
    return {"data_dir": str(data / "nowhere")}


def empty_folder(data):
    shutil.rmtree(data / "train" / "images")
    (data / "train" / "images").mkdir()
    return {}


def other_folder_name(data):
    (data / "train" / "masks").rename(data / "train" / "labels")
    return {}


def image_without_mask(data):
    first(data, "masks").unlink()
    return {}


def mask_without_image(data):
    first(data, "images").unlink()
    return {}


def two_images_of_one_stem(data):
    Image.open(first(data, "images")).save(first(data, "images").with_suffix(".jpg"))
    return {}


def truncated_image(data):
    path = first(data, "images")
    path.write_bytes(path.read_bytes()[:200])
    return {}


def no_image_at_all(data):
    first(data, "images").write_text("not a picture")
    return {}


def sizes_differ(data):
    gray(first(data, "masks"), np.zeros((24, 30), np.uint8))
    return {}


def white_on_black_masks(data):
    for path in (data / "train" / "masks").iterdir():
        gray(path, (np.asarray(Image.open(path)) > 0).astype(np.uint8) * 255)
    return {}


def value_outside_the_classes(data):
    mask = np.asarray(Image.open(first(data, "masks"))).copy()
    mask[0, 0] = 9
    gray(first(data, "masks"), mask)
    return {}


def binary_with_three_values(data):
    return {"dataset_mode": "binary"}


def colors_without_a_map(data):
    gray(first(data, "masks"), np.random.default_rng(0).integers(0, 2, (24, 24, 3), np.uint8) * 255)
    return {}


def broken_classes_file(data):
    (data / "classes.json").write_text('{"0": "background",')
    return {}


def classes_with_a_gap(data):
    (data / "classes.json").write_text('{"0": "background", "2": "lemon"}')
    return {}


def other_number_of_classes(data):
    return {"num_classes": 3}


def unknown_number_of_classes(data):
    (data / "classes.json").unlink()
    return {}


# The file below the dataset, or the key, that the line is about, and what it shows beside that.
DATASETS: dict[Break, tuple[str, ...]] = {
    missing_folder: ("nowhere",),
    empty_folder: ("train/images", "*.png"),
    other_folder_name: ("train/masks", "'labels'"),
    image_without_mask: ("train/images/lemon_0000.png", "train/masks/lemon_0000.png"),
    mask_without_image: ("train/masks/lemon_0000.png", "train/images/lemon_0000.png"),
    two_images_of_one_stem: ("train/images/lemon_0000.png", "lemon_0000.jpg"),
    truncated_image: ("train/images/lemon_0000.png",),
    no_image_at_all: ("train/images/lemon_0000.png",),
    sizes_differ: ("train/images/lemon_0000.png", "24x24", "train/masks/lemon_0000.png", "30x24"),
    white_on_black_masks: ("train/masks/lemon_0000.png", "255", "binary", "classes.json"),
    value_outside_the_classes: ("train/masks/lemon_0000.png", "9", "num_classes", "0..4"),
    binary_with_three_values: ("classes.json", "5 classes", "dataset_mode binary"),
    colors_without_a_map: ("train/masks/lemon_0000.png", "(0, 255, 255)", "classes.json"),
    broken_classes_file: ("classes.json", "line 1", "column 20"),
    classes_with_a_gap: ("classes.json", "0, 2"),
    other_number_of_classes: ("num_classes", "3", "classes.json", "5"),
    unknown_number_of_classes: ("num_classes", "0..4", "5", "classes.json"),
}


@pytest.mark.parametrize("damage", DATASETS, ids=lambda damage: damage.__name__)
def test_wrong_datasets(damage, lemons, tmp_path, isdm):
    data = tmp_path / "data"
    shutil.copytree(lemons, data)
    (data / "demo.json").unlink()
    options = {**TINY, "data_dir": str(data), "output_dir": str(tmp_path / "run"), "max_epochs": 1, **damage(data)}
    code, _, errors = isdm("train", **options)
    assert code == 2
    subject, *shown = DATASETS[damage]
    check_error(errors[0], subject if subject == "num_classes" else data / subject, *shown)
    assert not (tmp_path / "run" / LAST).exists()
    check = {key: options[key] for key in ("data_dir", "dataset_mode", "image_size")}
    if "num_classes" in options:
        check["num_classes"] = options["num_classes"]
    code, printed, checked = isdm("check", **check, output_dir=str(tmp_path / "check"))
    assert code == 2
    if damage is missing_folder:  # nothing to report of
        assert checked == errors
        assert not (tmp_path / "check").exists()
    else:
        assert errors[0] in printed.splitlines()


@pytest.mark.slow
def test_an_ignore_value_that_the_masks_cannot_hold(lemons, tmp_path, isdm):
    """257 in 8 bits is 1: padded borders would come out as the first class."""
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(tmp_path / "run"), "max_epochs": 1}
    assert isdm("train", **{**values, "resize": "pad", "ignore_label": 257, "image_size": [16, 24]})[0] == 0
    sample = {"model_path": str(tmp_path / "run"), "data_dir": str(lemons), "results_path": str(tmp_path / "out")}
    code, _, errors = isdm("sample", **sample, steps=2)
    assert code == 0, errors
    for path in (tmp_path / "out" / "masks").iterdir():
        mask = np.asarray(Image.open(path))
        assert set(np.unique(mask[:, :4])) == {255}
        assert 255 not in mask[:, 4:20]


def test_lossy_masks_are_refused_whatever_they_are_called(lemons, tmp_path, isdm):
    data = tmp_path / "data"
    shutil.copytree(lemons, data)
    for path in (data / "train" / "masks").iterdir():
        Image.open(path).save(path, format="JPEG", quality=100)
    code, shown, _ = isdm("check", data_dir=str(data), dataset_mode="multi-class", output_dir=str(tmp_path / "check"))
    assert code == 2
    assert any("lossy" in line and "lemon_0000.png" in line for line in shown.splitlines())


def test_check_holds_the_test_masks_against_the_training_masks(lemons, tmp_path, isdm):
    data = tmp_path / "data"
    shutil.copytree(lemons, data)
    for split, value in (("train", 1), ("test", 255)):
        for path in (data / split / "masks").iterdir():
            gray(path, (np.asarray(Image.open(path)) > 0).astype(np.uint8) * value)
    (data / "classes.json").unlink()
    code, shown, _ = isdm("check", data_dir=str(data), dataset_mode="binary", output_dir=str(tmp_path / "check"))
    assert code == 2
    (line,) = (line for line in shown.splitlines() if line.startswith("error: "))
    check_error(line, data / "test" / "masks" / "lemon_0000.png", "255")


def test_check_leaves_no_pictures_of_another_dataset(lemons, tmp_path, isdm):
    values = {"dataset_mode": "multi-class", "output_dir": tmp_path / "check", "batch_size": 6}
    _, shown, _ = isdm("check", data_dir=lemons, **values)
    assert "fewer than a batch" not in shown  # of the four pairs of the test
    assert {path.name for path in (tmp_path / "check").glob("*.png")} > {"train.png", "test.png"}
    (tmp_path / "empty").mkdir()
    assert isdm("check", data_dir=tmp_path / "empty", **values)[0] == 2
    assert not list((tmp_path / "check").glob("*.png"))
