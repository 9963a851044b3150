"""Folders that hold something else: one line that names file or key, what was found and what to do; exit code 2."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from error_lines import check_error, check_errors
from PIL import Image
from tiny import TINY

from guided_diffusion.runtime.checkpoint import BEST, LAST, load_checkpoint, save_weights


def test_another_run_in_the_same_folder_is_refused(trained, lemons, tmp_path, isdm):
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    before = (folder / LAST).read_bytes()
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(folder), "max_epochs": 3, "drop_rate": 0.2}
    code, _, errors = isdm("train", **{**values, "lr": 0.5, "num_channels": 64})
    assert code == 2
    check_errors(errors, "num_channels", "lr")
    for line, there, here in zip(errors, ("32", "0.001"), ("64", "0.5"), strict=True):
        assert all(shown in line for shown in (str(folder), there, here, "output_dir"))
    code, _, errors = isdm("train", **{**values, "lr": 0.5, "num_channels": 64, "seed": 1, "batch_size": 2})
    assert code == 2
    check_errors(errors, "output_dir")
    check_error(errors[0], "output_dir", folder, "num_channels, batch_size, lr, seed differ")
    code, _, errors = isdm("train", **values, resume_checkpoint="")
    assert code == 2
    check_error(errors[0], "resume_checkpoint", folder, '"auto"', "output_dir")
    assert (folder / LAST).read_bytes() == before


def test_finetuning_into_the_folder_it_starts_from_is_refused(trained, lemons, isdm):
    values = {"data_dir": str(lemons), "output_dir": str(trained), "resume_checkpoint": str(trained)}
    code, _, errors = isdm("finetune", **values)
    assert code == 2
    check_error(errors[0], "output_dir", "resume_checkpoint", trained)


def test_samples_of_other_settings_are_not_mixed(trained, lemons, tmp_path, isdm):
    values = {"model_path": str(trained), "data_dir": str(lemons), "results_path": str(tmp_path / "out"), "steps": 2}
    assert isdm("sample", **values)[0] == 0
    before = sorted((path, path.read_bytes()) for path in (tmp_path / "out").rglob("*.png"))
    code, _, errors = isdm("sample", **values, seed=1)
    assert code == 2
    check_error(errors[0], tmp_path / "out" / "manifest.jsonl", "run_seed", "0", "1", "results_path")
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
        assert errors[0].startswith(f"error: results_path: {data}")
        assert str(data / "train") in errors[0]
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"prediction": "eps"}, {"noise_schedule": "cosine"}, {"resize": "squash"}], ids=str)
def test_samples_of_bare_weights_understood_otherwise_are_not_mixed(change, trained, lemons, tmp_path, isdm):
    assert isdm("export", model_path=trained, export_path=tmp_path / "bare.pt")[0] == 0
    (tmp_path / "bare.pt.json").unlink()
    values = {"model_path": tmp_path / "bare.pt", "data_dir": lemons, "results_path": tmp_path / "out", "steps": 2}
    values |= {"image_size": 16, "dataset_mode": "multi-class", "diffusion_steps": 50, "num_head_channels": 32}
    values |= {"prediction": "v", "num_classes": 5, "num_samples": 1}
    assert isdm("sample", **values)[0] == 0
    code, _, errors = isdm("sample", **{**values, "num_samples": 2, **change})
    assert code == 2
    check_error(errors[0], tmp_path / "out", *change, *change.values())
    assert isdm("sample", **{**values, "num_samples": 2, "image_size": [16, 16]})[0] == 0
    assert len((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()) == 2


def test_other_masks_are_not_mixed_with_earlier_samples(trained, lemons, tmp_path, isdm):
    values = {"model_path": str(trained), "results_path": str(tmp_path / "out"), "steps": 2}
    assert isdm("sample", **values, mask_dir=str(lemons / "test" / "masks"))[0] == 0
    masks = tmp_path / "masks"
    shutil.copytree(lemons / "test" / "masks", masks)
    assert isdm("sample", **values, mask_dir=str(masks))[0] == 0, "the same masks elsewhere are the same"
    shutil.copy(lemons / "train" / "masks" / "lemon_0005.png", masks / "a_new_first_one.png")
    code, _, errors = isdm("sample", **values, mask_dir=str(masks), num_samples=5)
    assert code == 2
    names = ("lemon_0000.png", "a_new_first_one.png", "results_path")
    check_error(errors[0], tmp_path / "out" / "manifest.jsonl", *names)


@pytest.mark.slow
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
    check_error(errors[0], "resume_checkpoint", other, tmp_path / "ft", trained / BEST, "output_dir")


def test_classes_in_another_order_are_refused(trained, lemons, tmp_path, isdm):
    data = tmp_path / "data"
    shutil.copytree(lemons, data)
    names = ["background", "lemon", "mould", "blemish", "gangrene"]
    (data / "classes.json").write_text(json.dumps({str(index): name for index, name in enumerate(names)}))
    values = {"data_dir": str(data), "output_dir": str(tmp_path / "ft"), "max_epochs": 1, "preview_interval": 0}
    code, _, errors = isdm("finetune", **values, resume_checkpoint=str(trained))
    assert code == 2
    check_error(errors[0], "classes.json", ", ".join(names), trained / BEST, "background, lemon, blemish, mould")


@pytest.mark.slow
def test_training_on_from_bare_weights_asks_what_they_predict(trained, lemons, tmp_path, isdm):
    checkpoint = load_checkpoint(trained / BEST)
    save_weights(tmp_path / "bare.pt", checkpoint.model, checkpoint)
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(tmp_path / "run"), "max_epochs": 1}
    values["resume_checkpoint"] = str(tmp_path / "bare.pt")
    code, _, errors = isdm("train", **values)
    assert code == 2
    check_error(errors[0], "prediction", tmp_path / "bare.pt", '"eps"')
    assert isdm("train", **values, prediction="eps")[0] == 0
    code, _, errors = isdm(
        "train", **{**values, "num_channels": 64, "output_dir": str(tmp_path / "b")}, prediction="eps"
    )
    assert code == 2
    check_error(errors[0], tmp_path / "bare.pt", "num_channels", "32", "64")


def test_a_trained_to_the_end_checkpoint_is_no_beginning(trained, lemons, tmp_path, isdm):
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(tmp_path / "run"), "max_epochs": 3, "drop_rate": 0.2}
    code, _, errors = isdm("train", **values, resume_checkpoint=str(trained))
    assert code == 2
    check_error(errors[0], "resume_checkpoint", trained / LAST, "3", "max_epochs")


@pytest.mark.parametrize(("steps", "noted"), [(6, True), (3, False), (0, False)])
def test_a_training_that_ends_before_its_learning_rate_has_fallen_says_so(lemons, tmp_path, isdm, steps, noted):
    values = {**TINY, "data_dir": lemons, "max_epochs": 1, "lr_anneal_steps": steps}  # three steps
    code, shown, _ = isdm("train", **values, output_dir=tmp_path / "run")
    assert code == 0
    assert ("50% of lr" in shown) == noted
    assert ("lr_anneal_steps" in shown) == noted


@pytest.mark.slow
def test_what_has_annealed_its_learning_rate_is_told_apart_from_what_had_all_its_epochs(lemons, tmp_path, isdm):
    values = {**TINY, "data_dir": lemons, "max_epochs": 5, "lr_anneal_steps": 2}
    assert isdm("train", **values, output_dir=tmp_path / "run")[0] == 0
    on = {**values, "output_dir": tmp_path / "on", "resume_checkpoint": tmp_path / "run", "max_epochs": 50}
    code, _, errors = isdm("train", **on)
    assert (code, len(errors)) == (2, 1)
    assert "lr_anneal_steps" in errors[0]
    assert "raise max_epochs" not in errors[0]
    assert isdm("train", **{**on, "max_epochs": 2, "lr_anneal_steps": 4})[0] == 0


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
    assert str(tmp_path / "file") in errors[0].split(": ")[1]
    assert (tmp_path / "file").read_text() == "in the way"


def test_an_unreadable_manifest_path_is_refused(trained, lemons, tmp_path, isdm):
    values = {"model_path": str(trained), "data_dir": str(lemons), "results_path": str(tmp_path / "out"), "steps": 2}
    assert isdm("sample", **values)[0] == 0
    manifest = tmp_path / "out" / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    lines[0]["image"] = "../../secret.png"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, errors = isdm("sample", **values)
    assert code == 2
    check_error(errors[0], manifest, "'../../secret.png'")


@pytest.mark.slow
def test_weights_without_a_state_to_go_on_from_are_put_aside_not_overwritten(trained, lemons, tmp_path, isdm):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / LAST).unlink()
    before = (folder / BEST).read_bytes()
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(folder), "max_epochs": 1, "drop_rate": 0.2}
    code, shown, _ = isdm("train", **values)
    assert code == 0
    (aside,) = folder.glob("best-before-*.pt")
    assert aside.read_bytes() == before
    assert aside.name in shown


@pytest.mark.parametrize("text", ['{"index": 0}\n', "[1]\n", "\udcff\udcfe"])
def test_damaged_manifests(text, trained, lemons, tmp_path, isdm):
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    values = {"model_path": str(trained), "data_dir": str(lemons), "results_path": str(out), "steps": 2}
    code, _, errors = isdm("sample", **values)
    assert code == 2
    check_error(errors[0], out / "manifest.jsonl")


@pytest.mark.slow
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


def test_keys_that_do_nothing_with_the_checkpoint_are_refused(trained, lemons, tmp_path, isdm):
    values = {"data_dir": lemons, "resume_checkpoint": trained, "output_dir": tmp_path / "run", "preview_interval": 0}
    idle = {"scale": 0.5, "mask_weight": 5, "window_focus": 0.1, "hole_shares": [1, 0, 0]}
    code, _, errors = isdm("finetune", **values, **idle)
    assert code == 2
    check_errors(sorted(errors), *sorted(idle))
    values = {"model_path": trained, "data_dir": lemons, "results_path": tmp_path / "out", "steps": 1}
    code, _, errors = isdm("sample", **values, scale=0.5)
    assert code == 2
    check_errors(errors, "scale")
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_finetuning_without_the_good_images_of_the_training_says_so(lemons, tmp_path, isdm):
    values = {**TINY, "data_dir": lemons, "max_epochs": 1}
    good = lemons / "test" / "images"
    assert isdm("train", **values, good_dir=good, output_dir=tmp_path / "run")[0] == 0
    values = {"data_dir": lemons, "resume_checkpoint": tmp_path / "run", "max_epochs": 1, "preview_interval": 0}
    shown = [
        isdm("finetune", **values, **more, output_dir=tmp_path / name)[1]
        for name, more in (("without", {}), ("with", {"good_dir": good}))
    ]
    assert ["warning: good_dir: " in text for text in shown] == [True, False]
