"""No action writes into a folder that it reads from: refused with one line, and nothing of the sources changes."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from tiny import TINY

QUICK = {
    "architectures": "fpn",
    "encoder": "tu-lcnet_050",
    "encoder_weights": "none",
    "ratios": [1],
    "seeds": 1,
    "train_steps": 1,
    "batch_size": 2,
    "image_size": 32,
    "inception_weights": "none",
    "lpips_weights": "none",
}
TAKEN = ["", "train", "train/images", "train/masks", "test/masks", "train/images/run", "train/run", "test/run/1"]
"""Below data_dir: what holds its folders, is one of them, or lies inside one."""


@pytest.fixture
def data(lemons, tmp_path) -> Path:
    return shutil.copytree(lemons, tmp_path / "data")


@pytest.fixture
def samples(trained, data, tmp_path, isdm) -> Path:
    """Four samples in the sub-folder that `split` makes."""
    values = {"model_path": trained, "data_dir": data, "results_path": tmp_path / "samples", "split": "train"}
    assert isdm("sample", **values, steps=2)[0] == 0
    return tmp_path / "samples"


@pytest.fixture
def refused(isdm, tmp_path):
    """Run an action, which has to refuse a folder that `key` names, and leave everything as it is."""

    def run(action: str, key: str, **values) -> str:
        before = content(tmp_path)
        code, _, errors = isdm(action, **values)
        assert code == 2
        (line,) = errors
        assert line.startswith(f"error: {key}")
        assert content(tmp_path) == before
        return line

    return run


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.mark.parametrize("place", TAKEN)
def test_training_and_checking(place, data, refused):
    for action, more in {"train": TINY, "check": {"dataset_mode": "multi-class"}}.items():
        line = refused(action, "output_dir", data_dir=data, output_dir=data / place, **more)
        assert "data_dir" in line


@pytest.mark.parametrize("place", TAKEN)
def test_finetuning(place, data, trained, refused):
    refused("finetune", "output_dir", data_dir=data, resume_checkpoint=trained, output_dir=data / place)


@pytest.mark.parametrize("place", TAKEN)
def test_sampling(place, data, trained, refused):
    refused("sample", "results_path", model_path=trained, data_dir=data, results_path=data / place, steps=2)


def test_sampling_beside_the_masks_that_it_reads(data, trained, refused):
    masks = data / "train" / "masks"
    for results in (masks, masks / "new", data / "train"):
        line = refused("sample", "results_path", model_path=trained, mask_dir=masks, results_path=results, steps=2)
        assert "mask_dir" in line
    refused("sample", "results_path", model_path=trained, mask_dir=masks, results_path=data, split="train", steps=2)


def test_sampling_into_the_run_of_the_model(data, trained, tmp_path, refused):
    run = shutil.copytree(trained, tmp_path / "model")
    line = refused("sample", "results_path", model_path=run, data_dir=data, results_path=run, steps=2)
    assert "train" in line


@pytest.mark.slow
def test_evaluating(data, samples, tmp_path, refused):
    values = {**QUICK, "data_dir": data, "synthetic_dir": samples}
    for place in ("samples", "samples/train", "samples/train/images", "samples/train/out", "data/test", "data/train/x"):
        refused("evaluate", "output_dir", **values, output_dir=tmp_path / place)
    for place in ("samples", "samples/train/masks", "data/train/masks"):
        more = {"output_dir": tmp_path / "out", "filter_below": 0.1, "filtered_dir": tmp_path / place}
        refused("evaluate", "filtered_dir", **values, **more)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_links_and_relative_paths_are_followed(data, trained, tmp_path, refused, monkeypatch):
    os.symlink(data / "train", tmp_path / "link")
    refused("train", "output_dir", **TINY, data_dir=data, output_dir=tmp_path / "link" / "images")
    moved = tmp_path / "elsewhere"
    (data / "train" / "images").rename(moved)
    os.symlink(moved, data / "train" / "images")
    for place in (moved, moved / "run"):
        refused("train", "output_dir", **TINY, data_dir=data, output_dir=place)
    monkeypatch.chdir(data / "test")
    refused("train", "output_dir", **TINY, data_dir="..", output_dir="./masks")
    refused("train", "output_dir", **TINY, data_dir=data, output_dir=".")


def test_other_layouts_have_other_folders(tmp_path, refused):
    data = tmp_path / "cityscapes"
    values = {**TINY, "dataset_mode": "cityscapes", "data_dir": data}
    for place in ("leftImg8bit/train/run", "gtFine/val", "gtFine", ""):
        refused("train", "output_dir", **values, output_dir=data / place)


@pytest.mark.parametrize("place", ["run", "data/runs/1", "new/run", "data-2"])
def test_what_is_no_source_is_allowed(place, data, tmp_path, isdm):
    values = {"data_dir": data, "dataset_mode": "multi-class", "output_dir": tmp_path / place}
    assert isdm("check", **values, preview_images=0)[0] == 0


def test_samples_below_the_run_of_their_model_are_allowed(data, trained, tmp_path, isdm):
    run = shutil.copytree(trained, tmp_path / "model")
    values = {"model_path": run, "data_dir": data, "results_path": run / "samples", "steps": 2, "num_samples": 1}
    assert isdm("sample", **values)[0] == 0


def test_what_was_exported_is_not_overwritten(trained, tmp_path, isdm):
    target = tmp_path / "weights.pt"
    record = tmp_path / "weights.pt.json"
    record.write_text("mine")
    assert isdm("export", model_path=trained, export_path=target)[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt.json"]
    assert record.read_text() == "mine"
