"""Images without masks as a user has them: checked, trained on from any folder, and what such a network draws."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from error_lines import check_error, check_errors
from PIL import Image
from processes import kill_at_files, start
from tiny import TINY

from guided_diffusion import load_pipeline
from guided_diffusion.conditions.no_condition import NoCondition
from guided_diffusion.runtime.checkpoint import BEST, LAST, load_checkpoint

ALONE = {key: value for key, value in TINY.items() if key != "dataset_mode"}
DATA = {"data_dir": "data", "dataset_mode": "multi-class"}
SAMPLES = 5


@pytest.fixture(scope="session")
def pictures(lemons, tmp_path_factory) -> Path:
    """A folder of images in sub-folders, one of them of another format."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    for index, path in enumerate(sorted((lemons / "train" / "images").iterdir())):
        target = folder / ("first" if index < 4 else "second") / f"{path.stem}.{'bmp' if index == 0 else 'png'}"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(target)
    return folder


@pytest.fixture(scope="session")
def painter_of_all(pictures, tmp_path_factory) -> Path:
    """The folder of a finished run on images alone."""
    import command_line

    folder = tmp_path_factory.mktemp("runs") / "alone"
    values = {**ALONE, "image_dir": pictures, "output_dir": folder, "max_epochs": 2, "preview_interval": 2}
    assert command_line.run("train", **values, preview_steps=2) == 0
    return folder


@pytest.fixture
def draw(painter_of_all, tmp_path, isdm):
    """Run `sample` with few steps; `draw("name", key=value)` returns the results folder and the printed text."""

    def run(name: str, **values) -> tuple[Path, str]:
        base = {"model_path": painter_of_all, "results_path": tmp_path / name, "steps": 3, "num_samples": SAMPLES}
        code, shown, errors = isdm("sample", **{**base, **values})
        assert code == 0, errors
        return tmp_path / name, shown

    return run


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "config.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_any_folder_of_images_is_trained_on(painter_of_all):
    checkpoint = load_checkpoint(painter_of_all / LAST)
    assert (checkpoint.config["condition"], checkpoint.config["class_cond"]) == ("none", False)
    assert checkpoint.config["dataset_mode"] == "images"
    assert checkpoint.progress["dataset_size"] == 8
    assert len(checkpoint.fingerprint["stems"].split("\0")) == 8
    width, height = Image.open(painter_of_all / "previews" / "epoch_0002.png").size
    assert width < height  # four rows of: real, raw, two averages, and no masks


@pytest.mark.slow
def test_masks_are_left_aside(lemons, isdm, tmp_path):
    """Damaged masks, and images without any, are no hindrance; the same images make the same network."""
    data = tmp_path / "data"
    shutil.copytree(lemons, data)
    for index, mask in enumerate(sorted((data / "train" / "masks").iterdir())):
        mask.unlink() if index % 2 else mask.write_bytes(b"no picture")
    weights = []
    for name, values in {
        "aside": {"data_dir": data, "dataset_mode": "multi-class", "condition": "none"},
        "images": {"data_dir": data, "dataset_mode": "images"},
        "folder": {"image_dir": data / "train" / "images"},
    }.items():
        code, _, errors = isdm("train", **{**ALONE, **values}, output_dir=tmp_path / name, max_epochs=1)
        assert (code, errors) == (0, [])
        weights.append(load_checkpoint(tmp_path / name / LAST).model)
    for other in weights[1:]:
        assert all(torch.equal(value, other[name]) for name, value in weights[0].items())


@pytest.mark.slow
def test_images_of_all_folders_are_trained_on(lemons, pictures, isdm, tmp_path):
    good = tmp_path / "good"
    good.mkdir()
    for index in range(3):
        rng = np.random.default_rng(index)
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(good / f"{index}.png")
    values = {**TINY, "data_dir": lemons, "condition": "none", "image_dir": pictures, "good_dir": good}
    code, shown, errors = isdm("train", **values, output_dir=tmp_path / "run", max_epochs=1)
    assert (code, errors) == (0, [])
    assert load_checkpoint(tmp_path / "run" / LAST).progress["dataset_size"] == 8 + 8 + 3
    assert "the same pixels as" in shown  # the pictures are those of the dataset


@pytest.mark.slow
def test_holes_of_a_network_without_a_condition_lie_on_defects_still(lemons, pictures, isdm, tmp_path):
    values = {**TINY, "data_dir": lemons, "condition": "none", "image_dir": pictures, "inpaint": True}
    code, shown, errors = isdm("train", **values, output_dir=tmp_path / "run", max_epochs=1, resize="window")
    assert (code, errors) == (0, [])
    assert "8 pairs and 8 good images" in shown
    code, _, errors = isdm("train", **{**ALONE, "inpaint": True, "resize": "window"}, image_dir=pictures,
                           output_dir=tmp_path / "alone", max_epochs=1)  # fmt: skip
    assert (code, errors) == (0, [])


@pytest.mark.slow
def test_an_interrupted_training_goes_on_and_masks_may_change(lemons, isdm, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(lemons, data)
    values = {**TINY, "data_dir": data, "condition": "none", "output_dir": tmp_path / "run"}
    assert isdm("train", **values, max_epochs=1)[0] == 0
    for mask in (data / "train" / "masks").iterdir():
        Image.new("L", (24, 24), 3).save(mask)
    assert isdm("train", **values, max_epochs=2)[0] == 0
    assert isdm("train", **{**TINY, "data_dir": lemons, "condition": "none"}, max_epochs=2,
                output_dir=tmp_path / "whole")[0] == 0  # fmt: skip
    ours, whole = (load_checkpoint(tmp_path / name / LAST).model for name in ("run", "whole"))
    assert all(torch.equal(value, ours[name]) for name, value in whole.items())
    image = next((data / "train" / "images").iterdir())
    Image.new("RGB", (24, 24), (9, 200, 9)).save(image)
    code, _, errors = isdm("train", **values, max_epochs=3)
    assert code == 2
    check_error(errors[0], data, "images changed: 1", "allow_changed_data")


def test_check_of_images(lemons, pictures, isdm, tmp_path):
    code, shown, _ = isdm("check", data_dir=lemons, dataset_mode="images", image_size=16, output_dir=tmp_path / "a")
    assert code == 0
    assert "8 images" in shown
    assert {"train.png", "test.png", "histogram_train.png", "report.txt"} <= {
        p.name for p in (tmp_path / "a").iterdir()
    }
    config = tmp_path / "train.json"
    config.write_text(json.dumps({**ALONE, "image_dir": str(pictures), "condition": "none", "output_dir": "x"}))
    code, shown, _ = isdm("check", config, output_dir=tmp_path / "b")
    assert code == 0
    assert "8 images" in shown
    code, shown, _ = isdm("check", data_dir=lemons, dataset_mode="multi-class", image_dir=pictures, image_size=16,
                          output_dir=tmp_path / "c")  # fmt: skip
    assert code == 0
    assert "8 pairs" in shown
    assert "8 images without masks" in shown


def test_images_that_cannot_be_used_are_named(pictures, isdm, tmp_path):
    spoiled = tmp_path / "spoiled"
    shutil.copytree(pictures, spoiled)
    first, second, third = sorted((spoiled / "second").iterdir())[:3]
    first.write_bytes(b"no picture")
    second.write_bytes(b"")
    for action in ("check", "train"):
        out = {"output_dir": tmp_path / action}
        code, shown, errors = isdm(action, image_dir=spoiled, image_size=16, **out)
        assert code == 2
        lines = [line for line in shown.splitlines() if line.startswith("error: ")] if action == "check" else errors
        check_errors(lines, first, second)
    for path in (first, second):
        path.unlink()
    Image.open(third).save(spoiled / "copy.bmp")
    code, shown, _ = isdm("check", image_dir=spoiled, image_size=16, output_dir=tmp_path / "twice")
    assert code == 0
    (line,) = (line for line in shown.splitlines() if line.startswith("warning: ") and "same pi" in line)
    check_error(line.replace("warning: ", "error: "), third, spoiled / "copy.bmp")


@pytest.mark.parametrize(
    ("values", "subject"),
    [
        ({"image_dir": "empty"}, "empty"),
        ({"image_dir": "nowhere"}, "nowhere"),
        ({"image_dir": "data/train/images/lemon_0000.png"}, "data/train/images/lemon_0000.png"),
        ({"image_dir": "data/train"}, "data/train/masks/lemon_0000.png"),
        ({"data_dir": "data/train", "dataset_mode": "images"}, "data/train/train"),
        ({"data_dir": "data", "image_dir": "data/test/images"}, "dataset_mode"),
        ({"data_dir": "data", "dataset_mode": "images", "condition": "mask"}, "condition"),
        ({"data_dir": "data", "dataset_mode": "images", "class_cond": True}, "condition"),
        ({**DATA, "image_dir": "data/test/images"}, "image_dir"),
        (
            {"data_dir": "data", "dataset_mode": "multi-class", "image_dir": "data/test/images", "generates": "pair"},
            "image_dir",
        ),
        ({"data_dir": "data", "dataset_mode": "images", "generates": "pair"}, "generates"),
        ({"image_dir": "data/train/images", "generates": "mask"}, "generates"),
        ({"image_dir": "data/train/images", "generates": "mask", "condition": "none"}, "condition"),
        ({"image_dir": "data/train/images", "dataset_mode": "multi-class", "condition": "none"}, "dataset_mode"),
        ({"image_dir": "data/train/images", "mask_dir": "data/train/masks"}, "mask_dir"),
        ({"image_dir": "data/train/images", "cond_diffuse": True, "condition": "none"}, "cond_diffuse"),
        ({"image_dir": "data/train/images", "output_dir": "data/train/images/run"}, "output_dir"),
        ({**DATA, "condition": "none", "num_classes": 9}, "num_classes"),
        ({"image_dir": "data/train/images", "drop_rate": 0.1}, "drop_rate"),
    ],
)
def test_mistakes_are_one_line(lemons, isdm, tmp_path, values, subject):
    shutil.copytree(lemons, tmp_path / "data")
    (tmp_path / "empty").mkdir()
    values = {key: tmp_path / value if key.endswith("_dir") else value for key, value in values.items()}
    code, _, errors = isdm("train", **{**ALONE, "output_dir": tmp_path / "run", **values}, max_epochs=1)
    assert code == 2
    check_errors(errors, tmp_path / subject if "/" in subject or subject in ("empty", "nowhere") else subject)
    assert not (tmp_path / "run" / LAST).exists()


# ---------------------------------------------------------------------------------------------------- sampling


def test_samples_are_images_with_a_manifest_and_a_sheet(draw):
    folder, shown = draw("samples")
    assert {path.name for path in folder.iterdir()} == {
        "images", "manifest.jsonl", "contact_sheet.png", "config.json", "environment.json", "dataset_card.md",
    }  # fmt: skip
    card = (folder / "dataset_card.md").read_text()
    assert "- unconditional-image-generation" in card
    assert "## Classes" not in card
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(SAMPLES))
    assert len({line["seed"] for line in lines}) == SAMPLES
    for line in lines:
        assert Image.open(folder / line["image"]).size == (16, 16)
        assert not {"mask", "source_mask", "good_image"} & line.keys()
    assert f"{SAMPLES} images" in shown


@pytest.mark.slow
def test_samples_do_not_depend_on_the_batch_and_come_again(draw):
    several, again, alone = draw("several")[0], draw("again")[0], draw("alone", batch_size=1)[0]
    assert bytes_of(several) == bytes_of(again)
    for path in (several / "images").iterdir():
        one, other = (np.asarray(Image.open(f / "images" / path.name)).astype(int) for f in (several, alone))
        assert np.abs(one - other).max() <= 1
    first = np.asarray(Image.open(several / "images" / "sample_000000.png")).astype(int)
    assert np.abs(first - np.asarray(Image.open(draw("other", seed=1)[0] / "images" / "sample_000000.png"))).max() > 1


def test_more_samples_extend_what_is_there_and_a_damaged_folder_is_mended(draw):
    folder, _ = draw("grow", num_samples=3, batch_size=1)
    before = {path: path.stat().st_mtime_ns for path in (folder / "images").iterdir()}
    (folder / "images" / "sample_000001.png").write_bytes(b"\x89PNG")
    draw("grow", batch_size=1)
    for path, modified in before.items():
        assert (path.stat().st_mtime_ns == modified) == ("000001" not in path.name)
    assert bytes_of(folder) == bytes_of(draw("at_once", batch_size=1)[0])


def test_samples_of_other_settings_and_pairs_are_not_mixed(draw, trained, painter_of_all, lemons, isdm):
    folder, _ = draw("mixed")
    same = {"results_path": folder, "steps": 3}
    code, _, errors = isdm("sample", model_path=painter_of_all, num_samples=SAMPLES, **{**same, "steps": 2})
    assert code == 2
    check_error(errors[0], folder / "manifest.jsonl", "steps 3")
    code, _, errors = isdm("sample", model_path=trained, data_dir=lemons, **same)
    assert code == 2
    check_error(errors[0], folder / "manifest.jsonl")
    code, _, errors = isdm("evaluate", data_dir=lemons, dataset_mode="multi-class", synthetic_dir=folder,
                           output_dir=folder.with_name("evaluate"))  # fmt: skip
    assert code == 2
    check_error(errors[0], folder, "without masks")
    for masks in (folder, folder / "images"):
        code, _, errors = isdm("sample", model_path=trained, mask_dir=masks, results_path=folder.with_name("of_images"))
        assert (code, len(errors)) == (2, 1)
        check_error(errors[0], masks, "without masks")


@pytest.mark.parametrize(
    ("values", "subject"),
    [
        ({"num_samples": None}, "data_dir"),
        ({"data_dir": "masks"}, "data_dir"),
        ({"mask_dir": "masks"}, "mask_dir"),
        ({"class_names": "spot"}, "class_names"),
        ({"augment_masks": True}, "augment_masks"),
        ({"unlabeled_to_zero": True}, "unlabeled_to_zero"),
        ({"s": 1.5}, "s"),
        ({"generates": "pair"}, "generates"),
        ({"condition": "mask"}, "condition"),
        ({"dataset_mode": "multi-class"}, "dataset_mode"),
    ],
)
def test_keys_about_masks_are_refused(painter_of_all, isdm, tmp_path, values, subject):
    base = {"model_path": painter_of_all, "num_samples": 1, "results_path": tmp_path / "out"}
    code, _, errors = isdm("sample", **{**base, **values})
    assert code == 2
    check_errors(errors, subject)
    assert not (tmp_path / "out").exists()


def test_actions_with_masks_refuse_such_networks_and_data(painter_of_all, pictures, lemons, isdm, tmp_path):
    out = {"results_path": tmp_path / "out"}
    code, _, errors = isdm("place", model_path=painter_of_all, data_dir=lemons, good_dir=pictures, **out)
    assert code == 2
    check_errors(errors, "model_path")
    assert "images alone" in errors[0]
    code, _, errors = isdm("masks", data_dir=lemons, dataset_mode="images", **out)
    assert code == 2
    check_errors(errors, "dataset_mode")
    code, _, errors = isdm("evaluate", data_dir=lemons, dataset_mode="images", synthetic_dir=lemons / "test",
                           output_dir=tmp_path / "out", image_size=32)  # fmt: skip
    assert code == 2
    check_errors(errors, "dataset_mode")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_killed_sampling_goes_on_where_it_stopped(draw, painter_of_all, tmp_path):
    values = {"model_path": painter_of_all, "results_path": tmp_path / "killed", "steps": 3, "num_samples": 40}
    images = tmp_path / "killed" / "images"
    kill_at_files(start("sample", {**values, "batch_size": 1}), images, 3)
    assert 3 <= len(list(images.glob("*.png"))) < 40
    folder, _ = draw("killed", batch_size=1, num_samples=40)
    assert bytes_of(folder) == bytes_of(draw("whole", batch_size=1, num_samples=40)[0])


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_exported_weights_draw_the_same(draw, painter_of_all, isdm, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    assert isdm("export", model_path=painter_of_all, export_path=path)[0] == 0
    options = {}
    if suffix == ".pt":  # no dataset_mode: the shapes tell that there are no masks
        config = load_checkpoint(painter_of_all / BEST).config
        options = {key: config[key] for key in ("image_size", "num_heads", "prediction", "diffusion_steps")}
    exported, original = (
        draw(name, **more, mark=False)[0]  # which names the file of the weights
        for name, more in (("exported", {"model_path": path, **options}), ("original", {}))
    )
    for file in (original / "images").iterdir():
        assert (exported / "images" / file.name).read_bytes() == file.read_bytes()
    images = load_pipeline(path, device="cpu", **options)(NoCondition(2, (16, 16)), [1, 2], steps=3)
    assert torch.equal(images, load_pipeline(painter_of_all, device="cpu")(NoCondition(2, (16, 16)), [1, 2], steps=3))


def test_bare_weights_say_what_they_do_not_tell(painter_of_all, isdm, tmp_path):
    path = tmp_path / "weights.pt"
    assert isdm("export", model_path=painter_of_all, export_path=path)[0] == 0
    (tmp_path / "weights.pt.json").unlink()
    base = {"model_path": path, "num_samples": 1, "results_path": tmp_path / "out"}
    check_errors(isdm("sample", **base)[2], "image_size", "prediction", "num_head_channels")
    known = {"image_size": 16, "num_heads": 4, "prediction": "v"}
    code, _, errors = isdm("sample", **base, **known, condition="mask", image_channels=1, dataset_mode="multi-class")
    assert code == 2
    check_errors(errors, "condition", "image_channels")
    makes_masks = {"generates": "pair", "condition": "mask", "dataset_mode": "multi-class"}
    code, _, errors = isdm("sample", **base, **known, **makes_masks)
    assert code == 2
    check_errors(errors, "generates")
    assert not (tmp_path / "out").exists()
