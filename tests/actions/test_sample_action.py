"""`sample`: what a sample is depends on seed and index alone; results are never overwritten, and runs go on."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from error_lines import check_error
from PIL import Image
from processes import kill_at_files, start

from guided_diffusion.runtime.checkpoint import BEST, load_checkpoint

SAMPLES = 6  # of four masks: two are taken twice


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
        code, shown, errors = isdm("sample", **{**base, "steps": 4, "num_samples": SAMPLES, "s": 1.5, **values})
        assert code == 0, errors
        return folder, shown

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"sampler": "ddim", "eta": 0.5, "augment_masks": True}, marks=pytest.mark.slow),
        pytest.param(
            {"sampler": "dpm++2m-sde", "guidance_interval": [0.1, 2], "dynamic_threshold": 0.9}, marks=pytest.mark.slow
        ),
    ],
)
def test_images_do_not_depend_on_the_batch(sample, options):
    alone, several, all_at_once = (
        pictures_of(sample(f"batch{size}", batch_size=size, **options)[0]) for size in (1, 4, SAMPLES)
    )
    assert len(alone) == 2 * SAMPLES
    for other in (several, all_at_once):
        assert other.keys() == alone.keys()
        for name, picture in alone.items():
            assert np.abs(picture - other[name]).max() <= ("images" in name), name


def test_marked_or_not(sample):
    """Every image is marked unless `mark` is false; the pixels are the same."""
    (marked, _), (plain, _) = (sample(f"mark_{mark}", mark=mark, num_samples=2) for mark in (True, False))
    for name, picture in pictures_of(marked).items():
        assert np.array_equal(picture, pictures_of(plain)[name])
        is_marked = [b"/trainedAlgorithmicMedia" in (folder / name).read_bytes() for folder in (marked, plain)]
        assert is_marked == ["images" in name, False]
    assert all(json.loads(line)["synthetic"] for line in (marked / "manifest.jsonl").read_text().splitlines())


@pytest.mark.slow
def test_run_twice_gives_identical_bytes(sample):
    first, second = bytes_of(sample("first")[0]), bytes_of(sample("second")[0])
    assert first == second
    assert "manifest.jsonl" in first


def test_the_config_that_is_left_can_be_given_again(sample, isdm):
    folder, _ = sample("config")
    before = bytes_of(folder)
    code, _, errors = isdm("sample", folder / "config.json")
    assert code == 0, errors
    assert bytes_of(folder) == before


@pytest.mark.slow
def test_other_seeds_give_other_images_of_the_same_masks(sample):
    first, second = (pictures_of(sample(f"seed{seed}", seed=seed)[0]) for seed in (0, 1))
    for name, picture in first.items():
        assert np.array_equal(picture, second[name]) == ("masks" in name)


@pytest.mark.slow
def test_repeats_of_a_mask_differ_and_are_augmented(sample):
    plain, augmented = sample("plain")[0], sample("augmented", augment_masks=True)[0]
    for folder in (plain, augmented):
        lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
        assert [line["index"] for line in lines] == list(range(SAMPLES))
        assert len({line["seed"] for line in lines}) == SAMPLES
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


def manifest_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_manifest_says_how_it_was_sampled(sample):
    how = {}
    for name, options in {
        "default": {"steps": None},
        "everything": {"sampler": "dpm++2m-sde", "time_grid": "trailing", "guidance_interval": "0.1,2"},
        "threshold": {"dynamic_threshold": 0.9},
        "published": {"steps": None, "timestep_respacing": "ddim5"},
        "ddim": {"sampler": "ddim"},
    }.items():
        folder, shown = sample(name, num_samples=1, **options)
        line = manifest_of(folder)[0]
        keys = ("sampler", "steps", "time_grid", "guidance_interval", "dynamic_threshold")
        how[name] = tuple(line[key] for key in keys)
        assert all(str(line[key]) in shown for key in ("sampler", "steps"))
    assert how == {
        "default": ("dpm++2m", 20, "logsnr", None, None),
        "everything": ("dpm++2m-sde", 4, "trailing", [0.1, 2.0], None),
        "threshold": ("dpm++2m", 4, "logsnr", None, 0.9),
        "published": ("ddpm", 5, "ddim5", None, None),
        "ddim": ("ddim", 4, None, None, None),
    }


@pytest.mark.slow
def test_interval_and_threshold_change_the_images(sample):
    plain = pictures_of(sample("plain", num_samples=1, s=300)[0])["images/lemon_0000.png"]
    for name, options in {"interval": {"guidance_interval": [0.1, 1]}, "threshold": {"dynamic_threshold": 0.5}}.items():
        other = pictures_of(sample(name, num_samples=1, s=300, **options)[0])["images/lemon_0000.png"]
        assert not np.array_equal(plain, other)


def test_samples_of_another_spacing_are_not_mixed(sample, trained, lemons, isdm):
    folder, _ = sample("mixed", num_samples=1)
    values = {"model_path": str(trained), "data_dir": str(lemons), "results_path": str(folder), "s": 1.5}
    code, _, errors = isdm("sample", **values, steps=4, time_grid="uniform")
    assert code == 2
    check_error(errors[0], folder / "manifest.jsonl", 'time_grid "logsnr"', "null", "results_path")


@pytest.mark.parametrize("key", ["flip_pairs", "exif"])
def test_samples_of_masks_mirrored_or_turned_otherwise_are_not_mixed(sample, trained, lemons, tmp_path, isdm, key):
    data = tmp_path / "data"
    shutil.copytree(lemons, data)
    turn = Image.Exif()
    turn[274] = 6
    for split in ("train", "test"):
        for file in (*(data / split / "masks").iterdir(), *(data / split / "images").iterdir()):
            with Image.open(file) as image:
                image.save(file, exif=turn)
    names = load_checkpoint(trained / BEST).encoding["names"]
    other = [[names[0], names[1]]] if key == "flip_pairs" else "ignore"
    folder, shown = sample("mixed", num_samples=1, data_dir=str(data), augment_masks=True)
    assert "note: augment_masks changes masks from their second use on" in shown
    before = bytes_of(folder)
    values = {"model_path": str(trained), "data_dir": str(data), "results_path": str(folder), "s": 1.5, "steps": 4}
    code, _, errors = isdm("sample", **values, num_samples=2, augment_masks=True, **{key: other})
    assert code == 2
    check_error(errors[0], folder, key)
    assert bytes_of(folder) == before
    sample("mixed", num_samples=2, data_dir=str(data), augment_masks=True)


def test_a_folder_from_before_there_was_a_choice_is_gone_on_with(sample):
    folder, _ = sample("before", num_samples=2, sampler="ddpm")
    lines = manifest_of(folder)
    for line in lines:
        for key in ("time_grid", "guidance_interval", "dynamic_threshold"):
            del line[key]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("lemon*.png")}
    sample("before", num_samples=3, sampler="ddpm")
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("lemon*.png")}
    assert len(after) == 6
    assert {path: after[path] for path in before} == before


def test_an_interval_between_the_steps_is_refused_before_anything_is_written(trained, lemons, tmp_path, isdm):
    values = {"model_path": str(trained), "data_dir": str(lemons), "results_path": str(tmp_path / "out"), "steps": 4}
    code, _, errors = isdm("sample", **values, s=1.5, guidance_interval=[1000, 2000])
    assert code == 2
    check_error(errors[0], "guidance_interval", "[1000.0, 2000.0]", "4 noise levels")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_more_samples_extend_what_is_there_and_nothing_is_overwritten(sample, tmp_path):
    folder, _ = sample("grow", num_samples=3)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("lemon*.png")}
    (folder / "images" / "lemon_0001.png").unlink()
    grown, _ = sample("grow")
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
    values = {"data_dir": "", "mask_dir": str(lemons / "test" / "masks"), "num_samples": None}
    folder, shown = sample("alone", **values, data_split="train")
    assert len(list((folder / "images").iterdir())) == 4
    assert "note: data_split train is left aside, as mask_dir is given" in shown
    _, shown = sample("alone", **values)
    assert "data_split" not in shown


@pytest.mark.slow
def test_classes_that_the_first_masks_lack_are_told_before_sampling(sample, tmp_path):
    """Files named after their classes: the first ones show one class."""
    (tmp_path / "m").mkdir()
    for name, values in {"blemish": [0, 1, 2], "gangrene": [0, 1, 4], "mould": [0, 1, 3]}.items():
        Image.fromarray(np.resize(np.array(values, np.uint8), (24, 24))).save(tmp_path / "m" / f"{name}.png")
    said = {}
    for count in (1, 2, 3):
        _, shown = sample(str(count), data_dir="", mask_dir=str(tmp_path / "m"), num_samples=count)
        said[count] = [line for line in shown.splitlines() if line.startswith("warning: num_samples")]
    assert len(said[1]) == len(said[2]) == 1
    assert "mould" in said[1][0]
    assert "gangrene" in said[1][0]
    assert "mould" in said[2][0]
    assert "gangrene" not in said[2][0]
    assert said[3] == []


@pytest.mark.slow
def test_checkpoints_of_before_an_option_was_added_still_sample(sample, trained, tmp_path):
    state = torch.load(trained / "best.pt", weights_only=True)
    for key in ("spade", "compile"):
        del state["config"][key]
    torch.save(state, tmp_path / "old.pt")
    old, new = pictures_of(sample("old", model_path=str(tmp_path / "old.pt"))[0]), pictures_of(sample("new")[0])
    assert old.keys() == new.keys()
    assert all(np.array_equal(old[name], new[name]) for name in new)


@pytest.mark.slow
def test_guidance_without_finetuning_warns(lemons, tmp_path, isdm, trained):
    from tiny import TINY

    never = {**TINY, "data_dir": str(lemons), "output_dir": str(tmp_path / "never"), "max_epochs": 1}
    assert isdm("train", **never)[0] == 0
    base = {"data_dir": str(lemons), "steps": 2}
    said = {}
    for name, model, scale in (("a", tmp_path / "never", 1.5), ("b", tmp_path / "never", 1.0), ("c", trained, 1.5)):
        said[name] = isdm("sample", **base, model_path=str(model), s=scale, results_path=str(tmp_path / name))[1]
    (warning,) = (line for line in said["a"].splitlines() if line.startswith("warning: "))
    assert "finetune" in warning
    assert "warning" not in said["b"] + said["c"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", pytest.param(".pt", marks=pytest.mark.slow)])
def test_exported_weights_sample_like_the_run_they_come_from(sample, trained, isdm, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    assert isdm("export", model_path=str(trained), export_path=str(path))[0] == 0
    exported = pictures_of(sample("exported", model_path=str(path))[0])
    original = pictures_of(sample("original")[0])
    assert exported.keys() == original.keys()
    assert all(np.array_equal(exported[name], original[name]) for name in original)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_killed_sampling_goes_on_where_it_stopped(sample, trained, lemons, tmp_path):
    values = {"model_path": trained, "data_dir": lemons, "results_path": tmp_path / "killed"}
    values |= {"steps": 4, "num_samples": 10, "s": 1.5, "batch_size": 1}
    images = tmp_path / "killed" / "images"
    kill_at_files(start("sample", values), images, 3)
    assert len(list(images.glob("*.png"))) >= 3
    folder, _ = sample("killed", batch_size=1, num_samples=10)
    whole = bytes_of(sample("whole", batch_size=1, num_samples=10)[0])
    assert bytes_of(folder) == whole


def test_memory_does_not_hold_the_samples(sample, monkeypatch):
    """Images are written as soon as their batch is done: at most one batch of them is alive."""
    from guided_diffusion.samples.writer import SyntheticFolder

    alive, written = [], []
    original = SyntheticFolder.write

    def write(self, item, image, label):
        written.append(item.index)
        alive.append(len(list((self.folder / "images").iterdir())))
        assert torch.is_tensor(image)
        original(self, item, image, label)

    monkeypatch.setattr(SyntheticFolder, "write", write)
    sample("streamed", batch_size=2)
    assert alive == list(range(SAMPLES))
