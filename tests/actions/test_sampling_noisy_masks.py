"""Noisy masks as the README of SCDM has them sampled from: every mode, every noise, as a dataset and as masks alone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import command_line
import make_noisy_masks
import numpy as np
import pytest
from error_lines import check_error
from PIL import Image
from published_trees import LAYOUTS, STEMS, gray, write_tree
from tiny import TINY

pytestmark = pytest.mark.slow

SIZE = (16, 32)
EDGES = ("cityscapes", "celeba", "coco")
# The mask value of unlabeled pixels, and whether `sample` has to be told it.
UNLABELED = {
    "binary": (254, True),
    "multi-class": (255, True),
    "cityscapes": (0, False),
    "ade20k": (0, False),
    "celeba": (255, True),
    "coco": (255, False),
}
Model = tuple[Path, Path]  # the dataset and the run


def write_data(mode: str, root: Path, lemons: Path) -> Path:
    if mode in LAYOUTS:
        return write_tree(root, mode)
    shutil.copytree(lemons, root)
    if mode == "binary":
        (root / "classes.json").unlink()
        for path in root.rglob("masks/*.png"):
            gray(path, np.where(np.asarray(Image.open(path)) > 0, 255, 0).astype(np.uint8))
    return root


@pytest.fixture(scope="module")
def model(lemons, tmp_path_factory) -> Callable[[str], Model]:
    """Return the dataset and a run of one epoch of a mode, with edges where its published networks have them."""
    known: dict[str, Model] = {}

    def build(mode: str) -> Model:
        if mode not in known:
            folder = tmp_path_factory.mktemp(mode)
            data, run = write_data(mode, folder / "data", lemons), folder / "run"
            values = {**TINY, "image_size": list(SIZE), "resize": "squash", "max_epochs": 1, "batch_size": 8}
            values |= {"dataset_mode": mode, "no_instance": mode not in EDGES}
            assert command_line.run("train", **values, data_dir=data, output_dir=run) == 0
            known[mode] = data, run
        return known[mode]

    return build


@pytest.fixture
def noisy(tmp_path, capsys) -> Callable[..., str]:
    """Run the script into a folder below `tmp_path` and return what it printed."""

    def run(kind: str, data: Path, mode: str, output: str, *more: str) -> str:
        how = [kind, "--data-dir", str(data), "--dataset-mode", mode, "--size", "6", "--distance", "1"]
        make_noisy_masks.main([*how, "--output", str(tmp_path / output), *more])
        return capsys.readouterr().out

    return run


@pytest.fixture
def sample(tmp_path, isdm) -> Callable[..., tuple[Path, str]]:
    """`sample(run, "name", key=value)` returns the results folder and what was printed."""

    def run(model: Path, name: str, **values) -> tuple[Path, str]:
        code, shown, errors = isdm("sample", model_path=model, results_path=tmp_path / name, steps=1, **values)
        assert code == 0, errors
        return tmp_path / name, shown

    return run


def pictures(folder: Path) -> dict[str, np.ndarray]:
    return {path.relative_to(folder).as_posix(): np.asarray(Image.open(path)) for path in folder.rglob("*.png")}


def lacks_instances(shown: str) -> bool:
    """Whether a warning says that the three masks have no instance maps."""
    lines = [line for line in shown.splitlines() if line.startswith("warning: ")]
    return any("3 of 3 masks" in line and "instance map" in line for line in lines)


def clean_mask(mode: str, data: Path, name: str) -> np.ndarray:
    """Return a mask of the dataset, by its name in the results, at the size of the network."""
    template = LAYOUTS[mode]["test"][1] if mode in LAYOUTS else "test/masks/{}.png"
    mask = Image.open(data / template.format(name.removesuffix(".png")))
    return np.asarray(mask.resize(SIZE[::-1], Image.Resampling.NEAREST))


@pytest.mark.parametrize("kind", make_noisy_masks.KINDS)
@pytest.mark.parametrize("mode", UNLABELED)
def test_a_copied_dataset_and_masks_alone_are_sampled_from(mode, kind, model, noisy, sample, tmp_path):
    data, run = model(mode)
    value, to_be_told = UNLABELED[mode]
    said = re.search(r"ignore_label=(\d+)", noisy(kind, data, mode, "copy"))
    noisy(kind, data, mode, "masks", "--masks-only")
    extra = {"ignore_label": int(said[1])} if said else {}
    assert extra == ({"ignore_label": value} if to_be_told and kind != "downsample" else {})
    from_copy, shown = sample(run, "from_copy", data_dir=tmp_path / "copy", **extra)
    assert not lacks_instances(shown)
    from_masks, shown = sample(run, "from_masks", mask_dir=tmp_path / "masks", **extra)
    assert lacks_instances(shown) == (mode in ("cityscapes", "coco"))

    masks, alone = pictures(from_copy / "masks"), pictures(from_masks / "masks")
    assert masks.keys() == alone.keys()
    assert all(np.array_equal(mask, alone[name]) for name, mask in masks.items())
    changed = {name: mask[mask != clean_mask(mode, data, name)] for name, mask in masks.items()}
    assert any(values.size for values in changed.values())
    if kind != "downsample":
        assert {value} == {number for values in changed.values() for number in values.tolist()}


def test_a_folder_of_cityscapes_is_sampled_from_like_the_dataset(model, sample):
    """Of the many kinds of files beside the label maps only these and the instance maps count."""
    data, run = model("cityscapes")
    masks = data / "gtFine" / "val"
    for path in sorted(masks.rglob("*_gtFine_labelIds.png")):
        colors = np.random.default_rng(0).integers(0, 255, (*SIZE, 4), np.uint8)
        gray(path.with_name(path.name.replace("labelIds", "color")), colors)
    from_dataset, _ = sample(run, "from_dataset", data_dir=data)
    from_folder, shown = sample(run, "from_folder", mask_dir=masks)
    assert not lacks_instances(shown)
    images, alone = pictures(from_dataset / "images"), pictures(from_folder / "images")
    assert images.keys() == alone.keys() == {f"{stem}.png" for stem in STEMS["cityscapes"]}
    assert all(np.array_equal(image, alone[name]) for name, image in images.items())


def test_a_model_is_finetuned_on_noisy_masks(model, noisy, isdm, tmp_path):
    data, run = model("celeba")
    noisy("random", data, "celeba", "noisy", "--split", "train")
    base = {"data_dir": tmp_path / "noisy", "resume_checkpoint": run, "output_dir": tmp_path / "tuned"}
    base |= {"max_epochs": 1, "preview_interval": 0, "batch_size": 8}
    code, _, errors = isdm("finetune", **base)
    assert code == 2
    check_error(errors[0], tmp_path / "noisy/train/labels/0.png", "255", "ignore_label")
    code, _, errors = isdm("finetune", **base, ignore_label=255)
    assert code == 0, errors


@pytest.mark.parametrize(("values", "shown"), [({}, ("255", "ignore_label")), ({"ignore_label": 13}, ("13", "'hair'"))])
def test_masks_with_a_value_that_nothing_explains(values, shown, model, noisy, isdm, tmp_path):
    data, run = model("celeba")
    noisy("edge", data, "celeba", "noisy")
    base = {"model_path": run, "data_dir": tmp_path / "noisy", "results_path": tmp_path / "out", "steps": 1}
    code, _, errors = isdm("sample", **base, **values)
    assert code == 2
    check_error(errors[0], "ignore_label" if values else tmp_path / "noisy/test/labels/0.png", *shown)
    assert not (tmp_path / "out").exists()
