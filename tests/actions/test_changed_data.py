"""Runs that go on with other data than before, and test images that a model was trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY

from guided_diffusion.data.fingerprint import DataChanges, Fingerprint
from guided_diffusion.runtime.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint


@pytest.fixture
def data(lemons, tmp_path) -> Path:
    """A copy of the lemons that a test may change."""
    return Path(shutil.copytree(lemons, tmp_path / "data"))


@pytest.fixture
def options(data, tmp_path) -> dict:
    return {**TINY, "data_dir": str(data), "output_dir": str(tmp_path / "run"), "max_epochs": 1}


def pictures(data: Path, kind: str, split: str = "train") -> list[Path]:
    return sorted((data / split / kind).iterdir())


def turn(path: Path) -> None:
    with Image.open(path) as picture:
        turned = picture.transpose(Image.Transpose.ROTATE_180)
    turned.save(path)


def fingerprint(path: Path) -> Fingerprint:
    found = Fingerprint.from_state(load_checkpoint(path).fingerprint)
    assert found is not None
    return found


def same(first: Path, second: Path) -> bool:
    a, b = load_checkpoint(first), load_checkpoint(second)
    pairs = [(a.model, b.model), *((a.ema[rate], b.ema[rate]) for rate in a.ema)]
    return all(torch.equal(value, other[name]) for weights, other in pairs for name, value in weights.items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["masks", "images"])
def test_a_run_does_not_go_on_with_changed_files(kind, data, options, isdm, tmp_path):
    assert isdm("train", **options)[0] == 0
    last = tmp_path / "run" / LAST
    before, content = fingerprint(last), last.read_bytes()
    for path in pictures(data, kind)[:2]:
        turn(path)
    stems = tuple(path.stem for path in pictures(data, kind)[:2])
    code, _, errors = isdm("train", **{**options, "max_epochs": 2})
    assert code == 2
    assert len(errors) == 1
    for part in (str(data), f"{kind} changed: 2 ({', '.join(stems)})", "allow_changed_data"):
        assert part in errors[0]
    assert last.read_bytes() == content
    code, shown, errors = isdm("train", **{**options, "max_epochs": 2, "allow_changed_data": True})
    assert (code, errors) == (0, [])
    assert [line for line in shown.splitlines() if line.startswith("warning: ") and "allow_changed_data" in line]
    assert before.changes_to(fingerprint(last)) == DataChanges(**{kind: stems})
    # What was allowed is what the run has been trained on since.
    code, shown, errors = isdm("train", **{**options, "max_epochs": 3})
    assert (code, errors) == (0, [])
    assert "allow_changed_data" not in shown


@pytest.mark.slow
def test_pairs_that_came_and_went_are_named(data, options, isdm):
    assert isdm("train", **options)[0] == 0
    gone = pictures(data, "images")[0].stem
    for kind in ("images", "masks"):
        path = pictures(data, kind)[0]
        path.rename(path.with_stem("zz"))
    code, _, errors = isdm("train", **{**options, "max_epochs": 2})
    assert code == 2
    assert f"pairs added: 1 (zz), pairs removed: 1 ({gone})" in errors[0]


@pytest.mark.slow
def test_other_meanings_of_the_same_values_are_named(data, options, isdm):
    assert isdm("train", **options)[0] == 0
    path = data / "classes.json"
    classes = json.loads(path.read_text())
    names = [entry if isinstance(entry, str) else entry["name"] for entry in classes.values()]
    values = [0, 2, 1, *range(3, len(names))]
    entries = {index: {"name": name, "value": values[index]} for index, name in enumerate(names)}
    path.write_text(json.dumps(entries))
    code, _, errors = isdm("train", **{**options, "max_epochs": 2})
    assert (code, len(errors)) == (2, 1)
    assert "mask values now mean other classes" in errors[0]


@pytest.mark.slow
def test_moved_data_goes_on_as_if_nothing_had_been(lemons, data, options, isdm, tmp_path):
    straight = {**options, "data_dir": str(lemons), "output_dir": str(tmp_path / "straight"), "max_epochs": 2}
    assert isdm("train", **straight)[0] == 0
    assert isdm("train", **{**options, "data_dir": str(lemons)})[0] == 0
    for path in data.rglob("*.png"):
        path.touch()
    more = {"max_epochs": 2, "num_workers": 1, "cache_images": False}
    assert isdm("train", **{**options, **more})[0] == 0
    assert same(tmp_path / "run" / LAST, tmp_path / "straight" / LAST)
    one, other = (load_checkpoint(tmp_path / name / file).fingerprint for name, file in (("run", LAST), ("run", BEST)))
    assert one["stems"] == other["stems"]
    assert torch.equal(one["digests"], load_checkpoint(tmp_path / "straight" / LAST).fingerprint["digests"])


@pytest.mark.slow
def test_a_checkpoint_without_fingerprint_goes_on_without_complaint(data, options, isdm, tmp_path):
    assert isdm("train", **options)[0] == 0
    last = tmp_path / "run" / LAST
    content = torch.load(last, weights_only=True)
    for key in ("format", "version", "library", "fingerprint"):
        del content[key]
    del content["config"]["allow_changed_data"]
    save_checkpoint(last, content)
    turn(pictures(data, "masks")[0])
    code, shown, errors = isdm("train", **{**options, "max_epochs": 2})
    assert (code, errors) == (0, [])
    assert "other training data" not in shown
    assert fingerprint(last).stems


@pytest.mark.slow
def test_a_state_continued_in_another_folder_is_compared_too(data, options, isdm, tmp_path):
    assert isdm("train", **options)[0] == 0
    turn(pictures(data, "images")[3])
    on = {**options, "resume_checkpoint": str(tmp_path / "run"), "output_dir": str(tmp_path / "on"), "max_epochs": 2}
    code, _, errors = isdm("train", **on)
    assert (code, len(errors)) == (2, 1)
    assert f"images changed: 1 ({pictures(data, 'images')[3].stem})" in errors[0]
    assert not list((tmp_path / "on").glob("*.pt"))
    assert isdm("train", **on, allow_changed_data=True)[0] == 0


def spoil(folder: Path) -> None:
    """Make every image noise, which is harder to learn than what it showed."""
    for number, path in enumerate(sorted(folder.iterdir())):
        with Image.open(path) as picture:
            shape = np.asarray(picture).shape
        Image.fromarray(np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)).save(path)


@pytest.mark.slow
def test_the_best_weights_are_of_the_data_that_a_run_goes_on_with(data, options, isdm, tmp_path):
    options |= {"max_epochs": 3, "lr": 1e-3}
    assert isdm("train", **options)[0] == 0
    spoil(data / "train" / "images")
    code, shown, _ = isdm("train", **{**options, "max_epochs": 5, "allow_changed_data": True})
    assert code == 0
    assert "the search for the best epoch restarts" in shown
    losses = [epoch["loss"] for epoch in load_checkpoint(tmp_path / "run" / LAST).progress["history"]]
    assert min(losses[3:]) > min(losses[:3])  # by its loss alone, an epoch of the old data would be the best
    assert load_checkpoint(tmp_path / "run" / BEST).progress["epoch"] > 3
    assert fingerprint(tmp_path / "run" / BEST).stems == fingerprint(tmp_path / "run" / LAST).stems
    assert not fingerprint(tmp_path / "run" / BEST).changes_to(fingerprint(tmp_path / "run" / LAST))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"drop_rate": 1.0}, {"image_size": 32}, {"brightness": 0.5}, {"random_flip": False}]
)
def test_the_best_weights_are_of_the_examples_that_a_run_goes_on_with(change, options, isdm, tmp_path):
    assert isdm("train", **{**options, "lr": 1e-3})[0] == 0
    on = {**options, "resume_checkpoint": str(tmp_path / "run"), "output_dir": str(tmp_path / "on"), "max_epochs": 2}
    state = torch.load(tmp_path / "run" / LAST, weights_only=True)
    state["progress"]["best_loss"] = 0.0  # whatever comes, none is lower
    for key in ("format", "version", "library"):
        del state[key]
    save_checkpoint(tmp_path / "run" / LAST, state)
    assert isdm("train", **{**on, **change})[0] == 0
    assert load_checkpoint(tmp_path / "on" / BEST).progress["epoch"] == 2
    assert isdm("train", **{**on, "output_dir": str(tmp_path / "alike"), "lr": 1e-5})[0] == 0
    assert (tmp_path / "alike" / BEST).read_bytes() == (tmp_path / "run" / BEST).read_bytes()


@pytest.mark.slow
def test_finetuning_begins_with_any_data_and_goes_on_with_its_own(trained, data, isdm, tmp_path):
    turn(pictures(data, "masks")[0])
    options = {
        "data_dir": str(data), "resume_checkpoint": str(trained), "output_dir": str(tmp_path / "tuned"),
        "batch_size": 3, "max_epochs": 1, "preview_interval": 0, "tensorboard": False, "ema_rate": [0.9],
    }  # fmt: skip
    code, shown, errors = isdm("finetune", **options)
    assert (code, errors) == (0, [])
    assert "other training data" not in shown
    turn(pictures(data, "masks")[1])
    code, _, errors = isdm("finetune", **{**options, "max_epochs": 2})
    assert (code, len(errors)) == (2, 1)
    assert f"masks changed: 1 ({pictures(data, 'masks')[1].stem})" in errors[0]
    assert isdm("finetune", **{**options, "max_epochs": 2, "allow_changed_data": True})[0] == 0


def plant(data: Path, count: int = 2) -> list[Path]:
    """Copy training pairs into the test split under other names; return the test images."""
    planted = []
    for kind in ("images", "masks"):
        for path in pictures(data, kind)[:count]:
            planted.append(Path(shutil.copy(path, data / "test" / kind / f"t{path.name}")))
    return planted[:count]


@pytest.mark.parametrize("action", ["check", "train"])
def test_test_images_in_train_are_named(action, data, options, isdm):
    planted = plant(data)
    keys = ("data_dir", "dataset_mode", "output_dir", "image_size")
    values = options if action == "train" else {key: options[key] for key in keys}
    code, shown, errors = isdm(action, **values)
    assert (code, errors) == (0, [])
    (warning,) = (line for line in shown.splitlines() if line.startswith("warning: ") and "in train" in line)
    assert warning.split(": ")[1] == str(planted[0])
    assert f"{planted[1].name} like {planted[1].name[1:]}" in warning


@pytest.mark.parametrize("action", ["check", "train"])
def test_test_images_among_the_good_images_are_named(action, data, options, isdm):
    (data / "train/good").mkdir()
    copied = pictures(data, "images", "test")[0]
    good = data / "train/good/other_name.png"
    if action == "check":  # of equal pixels
        Image.open(copied).save(good, compress_level=1)
    else:
        shutil.copy(copied, good)
    keys = ("data_dir", "dataset_mode", "output_dir", "image_size")
    values = options if action == "train" else {key: options[key] for key in keys}
    code, shown, errors = isdm(action, **values)
    assert (code, errors) == (0, [])
    (warning,) = (line for line in shown.splitlines() if line.startswith("warning: ") and "in train" in line)
    assert warning.split(": ")[1] == str(copied)
    assert str(good) in warning
    assert "another mask" not in warning


def test_groups_of_good_images_are_those_of_train(data, options, isdm):
    (data / "train/good").mkdir()
    for name in ("train/good/part7_a.png", "test/images/part7_b.png"):
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 256, (24, 24, 3), np.uint8)).save(data / name)
    Image.fromarray(np.zeros((24, 24), np.uint8)).save(data / "test/masks/part7_b.png")
    values = {key: options[key] for key in ("data_dir", "dataset_mode", "output_dir", "image_size")}
    _, shown, _ = isdm("check", **values, group_pattern=r"(part\d)")
    (line,) = (line for line in shown.splitlines() if "of the group" in line)
    assert "part7_a.png" in line
    assert "part7_b.png" in line


@pytest.mark.slow
def test_without_copies_nothing_is_said_of_train_and_test(data, options, isdm):
    _, shown, _ = isdm("check", **{key: options[key] for key in ("data_dir", "dataset_mode", "output_dir")})
    assert "in train" not in shown
    shutil.rmtree(data / "test")
    assert isdm("train", **options)[0] == 0


@pytest.mark.slow
def test_the_report_of_evaluate_names_shared_images_and_other_training_data(data, options, isdm, tmp_path):
    assert isdm("train", **options)[0] == 0
    sampled = {"model_path": str(tmp_path / "run"), "data_dir": str(data), "data_split": "train", "split": "train"}
    sampled |= {"results_path": str(tmp_path / "samples"), "num_samples": 8, "batch_size": 8, "steps": 2}
    assert isdm("sample", **sampled)[0] == 0
    evaluated = {"data_dir": str(data), "synthetic_dir": str(tmp_path / "samples"), "study": False, "agreement": False}
    evaluated |= {"inception_weights": "none", "lpips_weights": "none", "output_dir": str(tmp_path / "report")}
    assert isdm("evaluate", **evaluated)[0] == 0
    record = json.loads((tmp_path / "report/report.json").read_text())["data"]
    assert record["test_in_training"] == []
    assert not [line for line in record["warnings"] if "trained on" in line]

    alone = pictures(data, "images", "test")[-1]
    (data / "train/good").mkdir()
    shutil.copy(alone, data / "train/good/beside.png")
    planted = plant(data)
    turn(pictures(data, "masks")[5])
    assert isdm("evaluate", **evaluated)[0] == 0
    record = json.loads((tmp_path / "report/report.json").read_text())["data"]
    stems = [path.stem for path in pictures(data, "images")[:2]]
    shared = [[f"t{stem}", stem, "file"] for stem in stems]
    assert record["test_in_training"] == [*shared, [alone.stem, "good image: beside", "file"]]
    said = [line for line in record["warnings"] if line.startswith(f"{data}: ")]
    assert len(said) == 1
    assert f"masks changed: 1 ({pictures(data, 'masks')[5].stem})" in said[0]
    assert str(tmp_path / "run" / BEST) in said[0]
    page = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    assert str(planted[0]) in page
    assert "6 for the test, 3 of them in training, too" in page


def test_a_blank_picture_is_no_reason_to_stop(options, data, isdm):
    Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(pictures(data, "images")[0])
    assert isdm("train", **options)[0] == 0
