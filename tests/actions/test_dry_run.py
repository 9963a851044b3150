"""`--dry-run`: says what an action would read, write and make, refuses what it would refuse, and writes nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from boxed import gray_set
from command_line import arguments_of
from error_lines import check_error
from tiny import TINY

from guided_diffusion import cli
from guided_diffusion.config.demo import demo_stages
from guided_diffusion.config.load import ACTIONS, load_config
from guided_diffusion.runtime.checkpoint import BEST, LAST, load_checkpoint
from guided_diffusion.runtime.logs import write_run_record
from guided_diffusion.runtime.units import size_in_words


@pytest.fixture
def dry(capsys, tmp_path, monkeypatch):
    """Run an action with --dry-run in an empty folder: (exit code, stdout, error lines); nothing may be written."""
    monkeypatch.chdir(tmp_path)

    def run(action: str, **values) -> tuple[int, str, list[str]]:
        before = sorted(tmp_path.rglob("*"))
        code = cli.main([*arguments_of(action, **values), "--dry-run"])
        assert sorted(tmp_path.rglob("*")) == before
        output = capsys.readouterr()
        return code, output.out, [line for line in output.err.splitlines() if line.startswith("error: ")]

    return run


def test_a_training(dry, lemons, trained, tmp_path):
    values = {**TINY, "data_dir": lemons, "output_dir": tmp_path / "new" / "run", "max_epochs": 3}
    code, shown, errors = dry("train", **values)
    assert code == 0, errors
    assert "8 pairs: 3 steps an epoch in one process, 9 steps in all" in shown
    assert f"output_dir: {tmp_path / 'new' / 'run'}, does not exist yet" in shown
    assert f"data_dir: {lemons}, a folder of {sum(path.is_file() for path in lemons.rglob('*'))} files" in shown
    weights = load_checkpoint(trained / LAST).model
    count = sum(value.numel() for value in weights.values())
    assert f"network of {count / 1e6:.1f} million parameters" in shown
    for name in (BEST, LAST):
        told = float(re.search(rf"{re.escape(name)} (\S+) MiB", shown)[1])
        assert told == pytest.approx((trained / name).stat().st_size / 2**20, rel=0.15, abs=1)
    given = shown[shown.index("{") : shown.index("}")]
    assert '"lr": 0.001' in given
    assert "weight_decay" not in given


def test_a_training_that_is_there_already(dry, lemons, trained):
    values = {**TINY, "data_dir": lemons, "output_dir": trained, "drop_rate": 0.2}
    code, shown, errors = dry("train", **values, max_epochs=3)
    assert code == 0, errors
    assert "has results of train, which would be continued" in shown
    assert "goes on after epoch 3, step 9, which is finished" in shown
    code, _, errors = dry("train", **{**values, "lr": 0.1}, max_epochs=3)
    assert code == 2
    check_error(errors[0], "lr")


def test_a_finetuning(dry, lemons, trained, tmp_path):
    values = {"data_dir": lemons, "resume_checkpoint": trained, "output_dir": tmp_path / "tuned"}
    code, shown, errors = dry("finetune", **values)
    assert code == 0, errors
    assert f"begins with the weights of {trained / BEST}" in shown
    code, _, errors = dry("finetune", **{**values, "output_dir": trained})
    assert code == 2
    check_error(errors[0], "output_dir")


def test_samples(dry, lemons, trained, tmp_path):
    values = {"model_path": trained, "results_path": tmp_path / "samples"}
    code, shown, errors = dry("sample", **values, data_dir=lemons)
    assert code == 0, errors
    assert "4 masks of data_split test" in shown
    code, shown, _ = dry("sample", **values, mask_dir=lemons / "train" / "masks", num_samples=20)
    assert code == 0
    assert "8 masks of mask_dir" in shown
    assert "20 asked for, 0 in the manifest already" in shown


def test_samples_of_new_masks(dry, lemons, trained, tmp_path):
    """The sheet that `masks` puts beside its masks is a PNG file, too, and no mask."""
    shutil.copytree(lemons / "test" / "masks", tmp_path / "m" / "masks")
    shutil.copy(next(lemons.glob("test/images/*")), tmp_path / "m" / "contact_sheet.png")
    write_run_record(tmp_path / "m", "masks", {})
    code, shown, errors = dry("sample", model_path=trained, results_path="samples", mask_dir="m")
    assert code == 0, errors
    assert "  4 masks of mask_dir\n  4 asked for" in shown


def test_a_studio(dry, lemons, trained, tmp_path):
    values = {"model_path": trained, "results_path": tmp_path / "studio"}
    code, shown, errors = dry("studio", **values, data_dir=lemons)
    assert code == 0, errors
    assert "16 x 16 px, 5 classes, 8 pairs of train, 4 pairs of test, 0 good images" in shown
    assert "without judge: give evaluate_dir" in shown
    assert "could start" in shown


def test_placing_with_a_network_that_fills_no_holes(dry, lemons, trained, tmp_path):
    good = lemons / "train" / "images"
    values = {"model_path": trained, "data_dir": lemons, "good_dir": good, "results_path": tmp_path / "placed"}
    code, _, errors = dry("place", **values)
    assert code == 2
    check_error(errors[0], "model_path", "fills no holes")


@pytest.mark.parametrize(
    ("action", "key"), [("check", "output_dir"), ("masks", "results_path"), ("export", "export_path")]
)
def test_results_among_the_data(dry, lemons, action, key):
    values = {"data_dir": lemons, "dataset_mode": "multi-class", key: lemons / "train" / "images"}
    values |= {"format": "coco"} if action == "export" else {}
    code, _, errors = dry(action, **values)
    assert code == 2
    check_error(errors[0], key, "results would mix")


@pytest.mark.parametrize(
    ("action", "key"), [("paste", "results_path"), ("masks", "results_path"), ("export", "export_path")]
)
def test_data_without_masks(dry, lemons, tmp_path, action, key):
    values = {"data_dir": lemons, key: tmp_path / "new"}
    values |= {"good_dir": lemons / "train" / "images"} if action == "paste" else {}
    values |= {"format": "coco"} if action == "export" else {}
    code, _, errors = dry(action, **values, dataset_mode="images")
    assert code == 2
    check_error(errors[0], "dataset_mode", "no masks")
    code, _, errors = dry(action, **{**values, "data_dir": tmp_path}, dataset_mode="multi-class")
    assert code == 2
    check_error(errors[0], tmp_path / "train", "does not exist")


def test_an_export(dry, lemons, tmp_path):
    values = {"data_dir": lemons, "dataset_mode": "multi-class", "format": "voc", "export_path": tmp_path / "new"}
    code, shown, errors = dry("export", **values)
    assert code == 0, errors
    assert "8 train, 4 test pairs, in voc" in shown


@pytest.mark.parametrize(("action", "key"), [("export", "export_path"), ("import", "output_dir")])
def test_nothing_is_overwritten(dry, lemons, tmp_path, action, key):
    values = {"source": lemons} if action == "import" else {"data_dir": lemons, "format": "coco"}
    target = tmp_path / "new"
    (target / "empty").mkdir(parents=True)
    assert dry(action, **values, **{key: target / "empty"})[0] == 0
    code, _, errors = dry(action, **values, **{key: target})
    assert code == 2
    check_error(errors[0], key, "nothing is overwritten")
    (tmp_path / "file").write_text("")
    code, _, errors = dry(action, **values, **{key: tmp_path / "file"})
    assert code == 2
    check_error(errors[0], key, "is a file")


def test_an_import_into_its_source(dry, lemons):
    code, _, errors = dry("import", source=lemons, output_dir=lemons / "new")
    assert code == 2
    check_error(errors[0], "output_dir", "lie in each other")


def test_masks_of_images_alone(dry, lemons, tmp_path):
    values = {"data_dir": lemons, "results_path": tmp_path / "masks"}
    code, _, errors = dry("masks", **values, dataset_mode="images")
    assert code == 2
    check_error(errors[0], "dataset_mode", "no masks")
    code, shown, _ = dry("masks", **values, dataset_mode="multi-class", num_masks=30)
    assert code == 0
    assert "30 masks, made of 8 of data_split train" in shown


def test_an_evaluation(dry, lemons, tmp_path):
    samples = shutil.copytree(lemons / "train", tmp_path / "samples")
    values = {
        "data_dir": lemons,
        "synthetic_dir": samples,
        "output_dir": tmp_path / "report",
        "encoder_weights": "none",
    }
    options = {"dataset_mode": "multi-class", "image_size": 32, "ratios": [1], "seeds": 2, "architectures": ["fpn"]}
    code, shown, errors = dry("evaluate", **values, **options, max_test=3)
    assert code == 0, errors
    assert "8 pairs in train" in shown
    assert "4 pairs in test, 3 of them used" in shown
    assert "1 architectures x 5 settings x 2 seeds: 10 models of 2000 steps" in shown
    shared = {**values, **options, "study": False, "baselines": True, "train_steps": 9}  # baselines as they are anyway
    code, shown, errors = dry("evaluate", **shared)
    assert code == 0, errors
    assert "no models are compared, so ratios, seeds are left aside" in shown
    _, shown, _ = dry("evaluate", **shared, agreement=False)
    unused = "ratios, seeds, architectures, encoder_weights, train_steps"
    assert f"no models are trained, so {unused} are left aside" in shown
    data = shutil.copytree(lemons, tmp_path / "few")
    for kind in ("images", "masks"):
        for path in sorted((data / "test" / kind).iterdir())[1:]:
            path.unlink()
    code, _, errors = dry("evaluate", **{**values, "data_dir": data}, **options)
    assert code == 2
    check_error(errors[0], data / "test", "1 pair", 2)


def test_an_evaluation_beside_boxes(dry, lemons, tmp_path):
    data, samples = gray_set(tmp_path / "boxes"), shutil.copytree(lemons / "train", tmp_path / "samples")
    values = {"data_dir": data, "dataset_mode": "boxes", "synthetic_dir": samples, "output_dir": tmp_path / "report"}
    code, shown, errors = dry("evaluate", **values, image_size=32, study=False)
    assert code == 0, errors
    assert "no models are compared" in shown


def test_a_study(dry, lemons, tmp_path):
    good = tmp_path / "good"
    for split in ("train", "test"):
        shutil.copytree(lemons / split / "images", good / split)
    values = {"data_dir": lemons, "dataset_mode": "multi-class", "good_dir": good, "output_dir": tmp_path / "study"}
    design = {"arms": ["real", "real_good"], "amounts": [2, "all"], "seeds": [3, 1], "encoder_weights": "none"}
    code, shown, errors = dry("study", **values, **design)
    assert code == 0, errors
    assert "8 good images for training" in shown
    assert "8 segmentation models of 1500 steps" in shown
    code, _, errors = dry("study", **values, **{**design, "amounts": [8, "all"]})
    assert code == 2
    check_error(errors[0], "amounts", "8 training pairs")


READ = {
    "train": ("data_dir",),
    "finetune": ("data_dir", "resume_checkpoint"),
    "sample": ("data_dir", "model_path"),
    "place": ("data_dir", "model_path", "good_dir"),
    "paste": ("data_dir", "good_dir"),
    "import": ("source",),
    "masks": ("data_dir",),
    "segment": ("data_dir", "model_path"),
    "generate": ("model_path", "classifier_path"),
    "check": ("data_dir",),
    "evaluate": ("data_dir", "synthetic_dir"),
    "study": ("data_dir", "good_dir"),
    "studio": ("model_path", "data_dir", "good_dir", "evaluate_dir"),
    "export": ("model_path",),
}
"""What actions need that is read."""


def test_every_action_that_reads_is_tried():
    assert set(ACTIONS) == {*READ, "demo", "doctor"}


@pytest.mark.parametrize("action", READ)
def test_every_action_says_what_is_missing(action, dry, tmp_path):
    fields = ACTIONS[action].fields()
    values = {key: tmp_path / f"no_{key}" for key in READ[action]}
    values |= {key: tmp_path / "results.pt" for key in ("output_dir", "results_path", "export_path") if key in fields}
    values |= {"dataset_mode": "multi-class"} if "data_dir" in READ[action] else {}
    values |= {"arms": ["real"]} if action == "study" else {}
    code, shown, errors = dry(action, **values, **({"num_samples": 3} if action == "generate" else {}))
    assert code == 2
    assert sorted(line.split()[1] for line in errors) == sorted(READ[action]), errors
    for key in READ[action]:
        assert f"{key}: {values[key]}, does not exist" in shown


@pytest.mark.parametrize("action", ["demo", "doctor"])
def test_actions_that_read_nothing(action, dry, tmp_path):
    code, shown, errors = dry(action, output_dir=tmp_path / "out")
    assert code == 0, errors
    assert str(tmp_path / "out") in shown


def test_the_stages_of_the_demo(dry, tmp_path):
    (tmp_path / "demo" / "dataset").mkdir(parents=True)
    (tmp_path / "demo" / "train").mkdir()
    code, shown, errors = dry("demo", output_dir=tmp_path / "demo")
    assert code == 0, errors
    lines = [line.strip() for line in shown.partition("plan:\n")[2].splitlines()]
    begun = {line.partition(":")[0]: "there already" in line for line in lines if str(tmp_path / "demo") in line}
    assert begun == {stage: stage == "train" for stage in demo_stages(load_config("demo", {}))}


def test_a_demo_amid_other_runs(dry, tmp_path):
    (tmp_path / "runs" / "train").mkdir(parents=True)
    code, _, errors = dry("demo", output_dir=tmp_path / "runs")
    assert code == 2
    check_error(errors[0], "output_dir", "train")


def test_results_of_another_action_and_files_in_the_way(dry, lemons, trained, tmp_path):
    code, _, errors = dry("evaluate", data_dir=lemons, synthetic_dir=lemons / "train", output_dir=trained)
    assert code == 2
    check_error(errors[0], "output_dir", "train")
    (tmp_path / "file").write_text("")
    values = {**TINY, "data_dir": lemons, "output_dir": tmp_path / "file" / "run"}
    code, _, errors = dry("train", **values)
    assert code == 2
    check_error(errors[0], "output_dir", "is a file")
    code, _, errors = dry("train", **{**values, "output_dir": tmp_path / "file"})
    assert code == 2
    check_error(errors[0], "output_dir", "is a file")


def test_a_word_in_place_of_a_path_is_no_missing_file(dry, lemons, tmp_path):
    values = {**TINY, "data_dir": lemons, "output_dir": tmp_path / "run"}
    code, shown, _ = dry("train", **values, resume_checkpoint="auto")
    assert (code, "resume_checkpoint: auto, no file" in shown) == (0, True)
    code, _, errors = dry("train", **values, resume_checkpoint="runs/other")
    assert code == 2
    check_error(errors[0], "resume_checkpoint", "runs/other")


def test_images_without_masks_are_refused(dry, lemons, tmp_path):
    data = shutil.copytree(lemons, tmp_path / "data")
    lost = sorted(Path(data / "train" / "masks").iterdir())[0]
    lost.unlink()
    code, _, errors = dry("train", **TINY, data_dir=data, output_dir=tmp_path / "run")
    assert code == 2
    assert lost.stem in errors[0]


def test_sizes_in_words():
    assert [size_in_words(size) for size in (0, 1023, 2048, 3 * 2**20, 1.5 * 2**30)] == [
        "0 bytes", "1023 bytes", "2 KiB", "3 MiB", "1.5 GiB",
    ]  # fmt: skip
