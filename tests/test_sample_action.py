"""`sample`: what a sample is depends on seed and index alone; results are never overwritten, and runs go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion.checkpoint import BEST, load_checkpoint

ROOT = Path(__file__).parents[1]


def pictures_of(folder: Path) -> dict[str, np.ndarray]:
    return {
        path.relative_to(folder).as_posix(): np.asarray(Image.open(path)).astype(int)
        for path in sorted(folder.rglob("*.png"))
        if path.parent.name in ("images", "masks")
    }


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "config.json"
    }


@pytest.fixture
def sample(trained, lemons, tmp_path, isdm):
    """Run `sample` with few steps; `sample("name", key=value)` returns the results folder and the printed text."""

    def run(name: str, **values) -> tuple[Path, str]:
        folder = tmp_path / name
        base = {"model_path": str(trained), "data_dir": str(lemons), "results_path": str(folder)}
        code, shown, errors = isdm("sample", **{**base, "steps": 4, "num_samples": 10, "s": 1.5, **values})
        assert code == 0, errors
        return folder, shown

    return run


@pytest.mark.parametrize("options", [{}, {"sampler": "ddim", "eta": 0.5, "augment_masks": True}])
def test_images_do_not_depend_on_the_batch(sample, options):
    alone, several, all_at_once = (
        pictures_of(sample(f"batch{size}", batch_size=size, **options)[0]) for size in (1, 3, 10)
    )
    assert len(alone) == 20
    for other in (several, all_at_once):
        assert other.keys() == alone.keys()
        for name, picture in alone.items():
            assert np.abs(picture - other[name]).max() <= ("images" in name), name


def test_run_twice_gives_identical_bytes(sample):
    first, second = bytes_of(sample("first")[0]), bytes_of(sample("second")[0])
    assert first == second
    assert "manifest.jsonl" in first


def test_other_seeds_give_other_images_of_the_same_masks(sample):
    first, second = (pictures_of(sample(f"seed{seed}", seed=seed)[0]) for seed in (0, 1))
    for name, picture in first.items():
        assert np.array_equal(picture, second[name]) == ("masks" in name)


def test_repeats_of_a_mask_differ_and_are_augmented(sample):
    plain, augmented = sample("plain")[0], sample("augmented", augment_masks=True)[0]
    for folder in (plain, augmented):
        lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
        assert [line["index"] for line in lines] == list(range(10))
        assert len({line["seed"] for line in lines}) == 10
        assert lines[4]["source_mask"] == lines[0]["source_mask"]
    pictures = pictures_of(plain)
    assert not np.array_equal(pictures["images/lemon_0000.png"], pictures["images/lemon_0000_rep001.png"])
    assert np.array_equal(pictures["masks/lemon_0000.png"], pictures["masks/lemon_0000_rep001.png"])
    turned = pictures_of(augmented)
    assert any(not np.array_equal(turned[name], pictures[name]) for name in pictures if "masks/" in name)
    for name, picture in turned.items():
        if "masks/" in name:
            assert np.array_equal(
                np.bincount(picture.ravel(), minlength=5), np.bincount(pictures[name].ravel(), minlength=5)
            )


def test_more_samples_extend_what_is_there_and_nothing_is_overwritten(sample, tmp_path):
    folder, _ = sample("grow", num_samples=3)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("lemon*.png")}
    (folder / "images" / "lemon_0001.png").unlink()
    grown, shown = sample("grow", num_samples=10)
    assert "10 samples, 2 are there already" in shown
    for path, (modified, content) in before.items():
        assert path.read_bytes() == content
        if "lemon_0001" not in path.name:
            assert path.stat().st_mtime_ns == modified
    assert pictures_of(grown).keys() == pictures_of(sample("at_once")[0]).keys()


def test_results_are_a_dataset_of_the_same_kind(sample, isdm, tmp_path):
    folder, _ = sample("dataset", split="train", num_samples=6)
    code, shown, _ = isdm(
        "check", data_dir=str(folder), dataset_mode="multi-class", image_size=16, output_dir=str(tmp_path / "check")
    )
    assert code == 0
    assert "gangrene" in shown
    assert "6 pairs" in shown


def test_the_mask_written_is_the_one_the_image_was_made_from(sample, lemons):
    folder, _ = sample("masks", num_samples=4)
    for path in (folder / "masks").iterdir():
        written = np.asarray(Image.open(path))
        original = Image.open(lemons / "test" / "masks" / path.name)
        assert written.shape == (16, 16)
        assert np.array_equal(written, np.asarray(original.resize((16, 16), Image.Resampling.NEAREST)))


def test_masks_alone_are_enough(sample, lemons):
    folder, _ = sample("alone", data_dir="", mask_dir=str(lemons / "test" / "masks"), num_samples=None)
    assert len(list((folder / "images").iterdir())) == 4


def test_guidance_without_finetuning_warns(lemons, tmp_path, isdm, trained):
    from tiny import TINY

    never = {**TINY, "data_dir": str(lemons), "output_dir": str(tmp_path / "never"), "max_epochs": 1}
    assert isdm("train", **never)[0] == 0
    base = {"data_dir": str(lemons), "steps": 2, "num_samples": 1}
    said = {}
    for name, model, scale in (("a", tmp_path / "never", 1.5), ("b", tmp_path / "never", 1.0), ("c", trained, 1.5)):
        said[name] = isdm("sample", **base, model_path=str(model), s=scale, results_path=str(tmp_path / name))[1]
    assert "never saw a dropped mask" in said["a"]
    assert "warning" not in said["b"] + said["c"]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_exported_weights_sample_like_the_run_they_come_from(sample, trained, isdm, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    assert isdm("export", model_path=str(trained), export_path=str(path))[0] == 0
    options = {}
    if suffix == ".pt":
        config = load_checkpoint(trained / BEST).config
        keys = ("dataset_mode", "image_size", "num_heads", "prediction", "diffusion_steps")
        options = {key: config[key] for key in keys}
    exported = pictures_of(sample("exported", model_path=str(path), **options)[0])
    original = pictures_of(sample("original")[0])
    assert exported.keys() == original.keys()
    assert all(np.array_equal(exported[name], original[name]) for name in original)


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "main.py"), *arguments]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_killed_sampling_goes_on_where_it_stopped(sample, trained, lemons, tmp_path):
    values = {"model_path": trained, "data_dir": lemons, "results_path": tmp_path / "killed"}
    values |= {"steps": 4, "num_samples": 10, "s": 1.5, "batch_size": 1}
    arguments = command("sample", *(f"--set={key}={value}" for key, value in values.items()))
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    images = tmp_path / "killed" / "images"
    deadline = time.monotonic() + 60
    while len(list(images.glob("*.png")) if images.exists() else []) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list(images.glob("*.png"))) >= 3
    folder, shown = sample("killed", batch_size=1)
    assert "are there already" in shown or process.returncode == 0
    whole = bytes_of(sample("whole", batch_size=1)[0])
    assert bytes_of(folder) == whole


def test_memory_does_not_hold_the_samples(sample, monkeypatch):
    """Images are written as soon as their batch is done: at most one batch of them is alive."""
    from guided_diffusion.data.synthetic import SyntheticFolder

    alive, written = [], []
    original = SyntheticFolder.write

    def write(self, item, image, label):
        written.append(item.index)
        alive.append(len(list((self.folder / "images").iterdir())))
        assert torch.is_tensor(image)
        original(self, item, image, label)

    monkeypatch.setattr(SyntheticFolder, "write", write)
    sample("streamed", batch_size=2)
    assert alive == list(range(10))
