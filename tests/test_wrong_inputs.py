"""What users get wrong: one line that names file or key, what was found and what to do; exit code 2, no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY

from guided_diffusion.checkpoint import BEST, LAST, load_checkpoint, save_weights

Break = Callable[[Path], dict]


def grey(path: Path, array) -> None:
    Image.fromarray(np.asarray(array)).save(path)


def first(data: Path, kind: str) -> Path:
    return data / "train" / kind / "lemon_0000.png"


# --- datasets: each gets a copy of a good one to break, and returns options --------------------------------------


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
    grey(first(data, "masks"), np.zeros((24, 30), np.uint8))
    return {}


def white_on_black_masks(data):
    for path in (data / "train" / "masks").iterdir():
        grey(path, (np.asarray(Image.open(path)) > 0).astype(np.uint8) * 255)
    return {}


def value_outside_the_classes(data):
    mask = np.asarray(Image.open(first(data, "masks"))).copy()
    mask[0, 0] = 9
    grey(first(data, "masks"), mask)
    return {}


def binary_with_three_values(data):
    return {"dataset_mode": "binary"}


def colours_without_a_map(data):
    grey(first(data, "masks"), np.random.default_rng(0).integers(0, 2, (24, 24, 3), np.uint8) * 255)
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


DATASETS: dict[Break, str] = {
    missing_folder: "nowhere",
    empty_folder: "images",
    other_folder_name: "labels",
    image_without_mask: "lemon_0000",
    mask_without_image: "lemon_0000",
    two_images_of_one_stem: "lemon_0000",
    truncated_image: "lemon_0000.png",
    no_image_at_all: "lemon_0000.png",
    sizes_differ: "30x24",
    white_on_black_masks: "255",
    value_outside_the_classes: "9",
    binary_with_three_values: "binary",
    colours_without_a_map: "classes.json",
    broken_classes_file: "classes.json",
    classes_with_a_gap: "classes.json",
    other_number_of_classes: "num_classes",
    unknown_number_of_classes: "num_classes",
}


@pytest.mark.parametrize("damage", DATASETS, ids=lambda damage: damage.__name__)
def test_wrong_datasets(damage, lemons, tmp_path, isdm):
    data = tmp_path / "data"
    shutil.copytree(lemons, data)
    (data / "demo.json").unlink()
    options = {**TINY, "data_dir": str(data), "output_dir": str(tmp_path / "run"), "max_epochs": 1, **damage(data)}
    code, _, errors = isdm("train", **options)
    assert code == 2
    assert errors
    assert any(DATASETS[damage] in line for line in errors), errors
    assert not (tmp_path / "run" / LAST).exists()
    check = {key: options[key] for key in ("data_dir", "dataset_mode", "image_size")}
    if "num_classes" in options:
        check["num_classes"] = options["num_classes"]
    code, shown, _ = isdm("check", **check, output_dir=str(tmp_path / "check"))
    assert code == 2
    assert "error: " in shown


# --- checkpoints --------------------------------------------------------------------------------------------------


def no_such_file(trained, tmp_path):
    return {"model_path": str(tmp_path / "none.pt")}, "none.pt: no such checkpoint file"


def folder_without_a_run(trained, tmp_path):
    return {"model_path": str(tmp_path)}, "no last.pt or best.pt"


def damaged_file(trained, tmp_path):
    path = tmp_path / "half.pt"
    path.write_bytes((trained / BEST).read_bytes()[:5000])
    return {"model_path": str(path)}, "half.pt: not a readable checkpoint"


def text_file(trained, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_text("hello")
    return {"model_path": str(path)}, "weights.pt: not a readable checkpoint"


def other_network(trained, tmp_path):
    torch.save({"conv.weight": torch.zeros(3, 3)}, tmp_path / "resnet.pt")
    options = {"image_size": 16, "dataset_mode": "multi-class", "num_head_channels": 32}
    return {"model_path": str(tmp_path / "resnet.pt"), **options}, "resnet.pt: "


def bare_weights_alone(trained, tmp_path):
    path = tmp_path / "bare.pt"
    checkpoint = load_checkpoint(trained / BEST)
    save_weights(path, checkpoint.model, checkpoint)
    return {"model_path": str(path)}, "image_size cannot be seen in the bare weights"


def optimizer_beside_weights(trained, tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "step": 3}, tmp_path / "wrapped.pt")
    return {"model_path": str(tmp_path / "wrapped.pt")}, "neither a checkpoint of isdm nor bare weights"


def other_architecture(trained, tmp_path):
    return {"model_path": str(trained), "num_channels": 64}, "num_channels differs from"


def other_image_size(trained, tmp_path):
    return {"model_path": str(trained), "image_size": 32}, "image_size differs from"


def unknown_weights(trained, tmp_path):
    return {"model_path": str(trained), "weights": "0.5"}, "weights is '0.5', but this file has raw, ema, 0.9, 0.99"


def no_such_device(trained, tmp_path):
    return {"model_path": str(trained), "device": "gpu"}, "device is 'gpu': use auto, cpu, cuda"


def too_many_steps(trained, tmp_path):
    return {"model_path": str(trained), "steps": 51}, "steps is 51, but the model's noise process has 50"


def no_masks(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    return {"model_path": str(trained), "data_dir": "", "mask_dir": str(tmp_path / "empty")}, "empty"


def foreign_results(trained, tmp_path):
    (tmp_path / "out" / "images").mkdir(parents=True)
    grey(tmp_path / "out" / "images" / "mine.png", np.zeros((4, 4), np.uint8))
    return {"model_path": str(trained)}, "is in no manifest, so it was not sampled"


SAMPLES = [
    no_such_file,
    folder_without_a_run,
    damaged_file,
    text_file,
    other_network,
    bare_weights_alone,
    optimizer_beside_weights,
    other_architecture,
    other_image_size,
    unknown_weights,
    no_such_device,
    too_many_steps,
    no_masks,
    foreign_results,
]


@pytest.mark.parametrize("mistake", SAMPLES, ids=lambda mistake: mistake.__name__)
def test_wrong_checkpoints_and_sampling_options(mistake, trained, lemons, tmp_path, isdm):
    options, said = mistake(trained, tmp_path)
    values = {"data_dir": str(lemons), "results_path": str(tmp_path / "out"), "steps": 2, **options}
    code, _, errors = isdm("sample", **values)
    assert code == 2
    assert any(said in line for line in errors), errors
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


# --- runs ---------------------------------------------------------------------------------------------------------


def test_another_run_in_the_same_folder_is_refused(trained, lemons, tmp_path, isdm):
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    before = (folder / LAST).read_bytes()
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(folder), "max_epochs": 3, "drop_rate": 0.2}
    code, _, errors = isdm("train", **{**values, "lr": 0.5, "num_channels": 64})
    assert code == 2
    assert [line.split()[1] for line in errors] == ["num_channels", "lr"]
    assert all("choose another output_dir" in line for line in errors)
    code, _, errors = isdm("train", **values, resume_checkpoint="")
    assert code == 2
    assert "already holds a run" in errors[0]
    assert (folder / LAST).read_bytes() == before


def test_finetuning_into_the_folder_it_starts_from_is_refused(trained, lemons, isdm):
    values = {"data_dir": str(lemons), "output_dir": str(trained), "resume_checkpoint": str(trained)}
    code, _, errors = isdm("finetune", **values)
    assert code == 2
    assert "output_dir is the folder of resume_checkpoint" in errors[0]


def test_samples_of_other_settings_are_not_mixed(trained, lemons, tmp_path, isdm):
    values = {"model_path": str(trained), "data_dir": str(lemons), "results_path": str(tmp_path / "out"), "steps": 2}
    assert isdm("sample", **values)[0] == 0
    before = sorted((path, path.read_bytes()) for path in (tmp_path / "out").rglob("*.png"))
    code, _, errors = isdm("sample", **values, seed=1)
    assert code == 2
    assert "holds samples with run_seed 0, these would have 1: choose another results_path" in errors[0]
    assert sorted((path, path.read_bytes()) for path in (tmp_path / "out").rglob("*.png")) == before


def test_sampling_into_a_real_dataset_is_refused(trained, lemons, tmp_path, isdm):
    """Same names, same folders: its masks would be overwritten by what was made from them."""
    data = tmp_path / "data"
    shutil.copytree(lemons, data)
    for path in (data / "train" / "images").iterdir():
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    values = {"model_path": str(trained), "data_dir": str(data), "data_split": "train", "steps": 2}
    for split in ("train", "synthetic"):
        code, _, errors = isdm("sample", **values, results_path=str(data), split=split)
        assert code == 2
        assert "choose an empty results_path" in errors[0]
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


def test_other_masks_are_not_mixed_with_earlier_samples(trained, lemons, tmp_path, isdm):
    values = {"model_path": str(trained), "results_path": str(tmp_path / "out"), "steps": 2}
    assert isdm("sample", **values, mask_dir=str(lemons / "test" / "masks"))[0] == 0
    masks = tmp_path / "masks"
    shutil.copytree(lemons / "test" / "masks", masks)
    assert isdm("sample", **values, mask_dir=str(masks))[0] == 0, "the same masks elsewhere are the same"
    shutil.copy(lemons / "train" / "masks" / "lemon_0005.png", masks / "a_new_first_one.png")
    code, _, errors = isdm("sample", **values, mask_dir=str(masks), num_samples=5)
    assert code == 2
    assert "the masks are others than they were" in errors[0]


def test_a_run_does_not_go_on_from_another_source(trained, lemons, tmp_path, isdm):
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    checkpoint = torch.load(other / BEST, weights_only=True)
    checkpoint["progress"]["best_epoch"] = 77
    torch.save(checkpoint, other / BEST)
    values = {"data_dir": str(lemons), "output_dir": str(tmp_path / "ft"), "max_epochs": 1, "preview_interval": 0}
    assert isdm("finetune", **values, resume_checkpoint=str(trained))[0] == 0
    code, _, errors = isdm("finetune", **values, resume_checkpoint=str(other))
    assert code == 2
    assert "began from" in errors[0]


def test_classes_in_another_order_are_refused(trained, lemons, tmp_path, isdm):
    data = tmp_path / "data"
    shutil.copytree(lemons, data)
    names = ["background", "lemon", "mould", "blemish", "gangrene"]
    (data / "classes.json").write_text(json.dumps({str(index): name for index, name in enumerate(names)}))
    values = {"data_dir": str(data), "output_dir": str(tmp_path / "ft"), "max_epochs": 1, "preview_interval": 0}
    code, _, errors = isdm("finetune", **values, resume_checkpoint=str(trained))
    assert code == 2
    assert "use the same classes in the same order" in errors[0]


def test_training_on_from_bare_weights_asks_what_they_predict(trained, lemons, tmp_path, isdm):
    checkpoint = load_checkpoint(trained / BEST)
    save_weights(tmp_path / "bare.pt", checkpoint.model, checkpoint)
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(tmp_path / "run"), "max_epochs": 1}
    values["resume_checkpoint"] = str(tmp_path / "bare.pt")
    code, _, errors = isdm("train", **values)
    assert code == 2
    assert "prediction cannot be seen in the bare weights" in errors[0]
    assert isdm("train", **values, prediction="eps")[0] == 0
    code, _, errors = isdm(
        "train", **{**values, "num_channels": 64, "output_dir": str(tmp_path / "b")}, prediction="eps"
    )
    assert code == 2
    assert "num_channels" in errors[0]


def test_a_trained_to_the_end_checkpoint_is_no_beginning(trained, lemons, tmp_path, isdm):
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(tmp_path / "run"), "max_epochs": 3, "drop_rate": 0.2}
    code, _, errors = isdm("train", **values, resume_checkpoint=str(trained))
    assert code == 2
    assert "raise max_epochs to train on" in errors[0]


@pytest.mark.parametrize("action", ["train", "sample", "check", "export"])
def test_results_that_cannot_be_written(action, trained, lemons, tmp_path, isdm):
    (tmp_path / "file").write_text("in the way")
    place = str(tmp_path / "file" / "results.pt")
    values = {
        "train": {**TINY, "data_dir": str(lemons), "output_dir": place, "max_epochs": 1},
        "sample": {"model_path": str(trained), "data_dir": str(lemons), "results_path": place, "steps": 2},
        "check": {"data_dir": str(lemons), "dataset_mode": "multi-class", "output_dir": place},
        "export": {"model_path": str(trained), "export_path": place},
    }
    code, _, errors = isdm(action, **values[action])
    assert code == 2
    assert "cannot be written" in errors[0]
    assert (tmp_path / "file").read_text() == "in the way"


# --- config files and the command line ------------------------------------------------------------------------------

CONFIGS = {
    "missing.json": (None, "config file cannot be read"),
    "broken.json": ('{"lr": 1,}', "line 1, column"),
    "list.json": ("[1, 2]", "expected an object of keys and values"),
    "twice.json": ('{"lr": 1, "lr": 2}', "key 'lr' is given twice"),
    "binary.json": (b"\xff\xfe\x00\x80", "not a text file in UTF-8"),
    "typo.json": ('{"data_dri": "x"}', "data_dri is not a key of train: did you mean 'data_dir'?"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_wrong_config_files(name, tmp_path, isdm):
    content, said = CONFIGS[name]
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    code, _, errors = isdm("train", tmp_path / name)
    assert code == 2
    assert any(said in line for line in errors), errors


COMMANDS = {
    "trian": "'trian' is not an action: did you mean 'train'?",
    "train --config": "expected one argument",
    "train --lr 3": "unrecognized arguments: --lr 3",
    "train --set lr": "--set lr: expected key=value",
    "schema": "name one action",
    "schema fly": "name one action",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_commands(command, capsys):
    from guided_diffusion.cli import main

    assert main(command.split()) == 2
    shown = capsys.readouterr().err.strip()
    assert COMMANDS[command] in shown
    assert "\n" not in shown


def test_an_unreadable_manifest_path_is_refused(trained, lemons, tmp_path, isdm):
    values = {"model_path": str(trained), "data_dir": str(lemons), "results_path": str(tmp_path / "out"), "steps": 2}
    assert isdm("sample", **values)[0] == 0
    manifest = tmp_path / "out" / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    lines[0]["image"] = "../../secret.png"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, errors = isdm("sample", **values)
    assert code == 2
    assert "outside its folder" in errors[0]


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


def test_weights_without_a_state_to_go_on_from_are_put_aside_not_overwritten(trained, lemons, tmp_path, isdm):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / LAST).unlink()
    before = (folder / BEST).read_bytes()
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(folder), "max_epochs": 1, "drop_rate": 0.2}
    code, shown, _ = isdm("train", **values)
    assert code == 0
    assert "the old weights are now" in shown
    assert [path.read_bytes() for path in folder.glob("best-before-*.pt")] == [before]


def test_lossy_masks_are_refused_whatever_they_are_called(lemons, tmp_path, isdm):
    data = tmp_path / "data"
    shutil.copytree(lemons, data)
    for path in (data / "train" / "masks").iterdir():
        Image.open(path).save(path, format="JPEG", quality=100)
    code, shown, _ = isdm("check", data_dir=str(data), dataset_mode="multi-class", output_dir=str(tmp_path / "check"))
    assert code == 2
    assert "mask is a JPEG, whatever its name says" in shown


def test_check_holds_the_test_masks_against_the_training_masks(lemons, tmp_path, isdm):
    data = tmp_path / "data"
    shutil.copytree(lemons, data)
    for split, value in (("train", 1), ("test", 255)):
        for path in (data / split / "masks").iterdir():
            grey(path, (np.asarray(Image.open(path)) > 0).astype(np.uint8) * value)
    (data / "classes.json").unlink()
    code, shown, _ = isdm("check", data_dir=str(data), dataset_mode="binary", output_dir=str(tmp_path / "check"))
    assert code == 2
    assert "was fixed by the training masks" in shown


def test_weights_that_are_not_finite_are_not_sampled_from(trained, lemons, tmp_path, isdm):
    content = torch.load(trained / BEST, weights_only=True)
    content["ema"]["0.99"]["out.2.bias"][0] = float("nan")
    torch.save(content, tmp_path / "nan.pt")
    values = {"model_path": str(tmp_path / "nan.pt"), "data_dir": str(lemons), "results_path": str(tmp_path / "out")}
    code, _, errors = isdm("sample", **values, steps=2)
    assert code == 2
    assert "out.2.bias has values that are not finite" in errors[0]


@pytest.mark.parametrize("text", ['{"index": 0}\n', "[1]\n", "\udcff\udcfe"])
def test_damaged_manifests(text, trained, lemons, tmp_path, isdm):
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    values = {"model_path": str(trained), "data_dir": str(lemons), "results_path": str(out), "steps": 2}
    code, _, errors = isdm("sample", **values)
    assert code == 2
    assert "no manifest of samples, or damaged" in errors[0]


def test_both_splits_make_one_dataset(trained, lemons, tmp_path, isdm):
    values = {"model_path": str(trained), "data_dir": str(lemons), "results_path": str(tmp_path / "out"), "steps": 2}
    for split in ("train", "test"):
        code, _, errors = isdm("sample", **values, data_split=split, split=split, num_samples=3)
        assert code == 0, errors
    code, shown, _ = isdm(
        "check", data_dir=str(tmp_path / "out"), dataset_mode="multi-class", output_dir=str(tmp_path / "check")
    )
    assert code == 0
    assert shown.count("3 pairs, width") == 2
