"""What a run refuses for names and numbers alone, `--dry-run` refuses by the same line."""

from __future__ import annotations

import json
import shutil

import pytest
from command_line import arguments_of
from error_lines import check_error
from tiny import TINY

from guided_diffusion import cli
from guided_diffusion.data.lemons import write_good_lemons
from guided_diffusion.runtime.checkpoint import BEST

EVALUATED = {"dataset_mode": "multi-class", "image_size": 32, "architectures": ["fpn"], "encoder": "tu-lcnet_050"}
EVALUATED |= dict.fromkeys(("encoder_weights", "inception_weights", "lpips_weights"), "none")
EVALUATED |= {"seeds": 1, "train_steps": 1, "batch_size": 2, "ratios": [0.5], "device": "cpu"}
STUDIED = {"dataset_mode": "multi-class", "arms": "real,real_good", "amounts": "all", "encoder_weights": "none"}


@pytest.fixture
def both(isdm, refused_dry, tmp_path, monkeypatch):
    """Run an action with --dry-run and without; each must refuse by the same one line, which is returned."""
    monkeypatch.chdir(tmp_path)

    def run(action: str, **values) -> str:
        dry = refused_dry(action, **values)
        code, _, lines = isdm(action, **values)
        assert code == 2
        assert len(lines) == 1, lines
        assert dry == lines
        return lines[0]

    return run


@pytest.fixture
def data(lemons, tmp_path):
    """A copy of the dataset, to be spoiled."""
    return shutil.copytree(lemons, tmp_path / "data")


@pytest.fixture
def needed(data, tmp_path):
    """What each action needs beside `data_dir`."""
    good = tmp_path / "good"
    for seed, split in enumerate(("train", "test")):
        write_good_lemons(good / split, count=2, size=24, seed=7 + seed)
    samples = shutil.copytree(data / "train", tmp_path / "samples")
    return {
        "train": {**TINY, "output_dir": "run"},
        "masks": {"dataset_mode": "multi-class", "results_path": "masks"},
        "paste": {"dataset_mode": "multi-class", "good_dir": good / "train", "results_path": "pasted"},
        "export": {"dataset_mode": "multi-class", "format": "coco", "export_path": "exported"},
        "evaluate": {**EVALUATED, "synthetic_dir": samples, "output_dir": "report"},
        "study": {**STUDIED, "good_dir": good, "output_dir": "study"},
    }


@pytest.mark.parametrize("action", ["train", "masks", "paste", "export", "evaluate", "study"])
def test_another_number_of_classes(both, data, needed, action):
    line = both(action, data_dir=data, **needed[action], num_classes=4)
    check_error(line, "num_classes", "4 found", "classes.json lists 5")
    (data / "classes.json").unlink()
    values = {**needed[action], "num_classes": None}
    assert cli.main([*arguments_of(action, data_dir=data, **values), "--dry-run"]) == 2


@pytest.mark.parametrize("action", ["train", "masks", "evaluate", "study"])
def test_pairs_of_no_classes(both, data, needed, action):
    line = both(action, data_dir=data, **needed[action], flip_pairs=[["mould", "lemonade"]])
    check_error(line, "flip_pairs", "'lemonade' is not a class")


@pytest.mark.parametrize(
    ("action", "values"),
    [("train", {"latent": 4}), ("evaluate", {}), ("study", {})],
)
def test_a_pattern_that_matches_no_name(both, data, needed, action, values):
    line = both(action, data_dir=data, **needed[action], **values, group_pattern="tile")
    check_error(line, "group_pattern", "'tile'")


def test_a_pattern_that_matches_no_test_image(both, data, needed):
    """The report draws groups of these: the line came after all trainings."""
    for kind in ("images", "masks"):
        for path in (data / "train" / kind).iterdir():
            path.rename(path.with_stem(f"tile{path.stem}"))
    line = both("study", data_dir=data, **needed["study"], group_pattern="tile.*")
    check_error(line, "group_pattern", "'tile.*'")


def test_names_of_no_classes_are_not_placed(both, data, needed):
    check_error(both("paste", data_dir=data, **needed["paste"], classes=["rust"]), "classes", "'rust'")
    check_error(both("masks", data_dir=data, **needed["masks"], movable=["rust"]), "movable", "'rust'")
    check_error(both("masks", data_dir=data, **needed["masks"], movable=["background"]), "movable", "background")
    check_error(both("study", data_dir=data, **needed["study"], defect_classes=["rust"]), "defect_classes", "'rust'")


def test_too_few_samples_for_the_ratios(data, needed, isdm):
    for ratio, code in ((9, 2), (1, 0)):
        values = {"data_dir": data, **needed["evaluate"], "ratios": [ratio]}
        assert cli.main([*arguments_of("evaluate", **values), "--dry-run"]) == code
    found, _, (line,) = isdm("evaluate", **{**values, "ratios": [9]})
    assert found == 2
    check_error(line, "ratios is [9.0]", "samples too few")


def test_classes_of_another_training(both, data, trained):
    classes = json.loads((data / "classes.json").read_text())
    first = next(key for key in classes if key != "0")
    classes[first] = "rust" if isinstance(classes[first], str) else {**classes[first], "name": "rust"}
    (data / "classes.json").write_text(json.dumps(classes))
    line = both("finetune", data_dir=data, resume_checkpoint=trained, output_dir="tuned")
    check_error(line, "classes.json", "rust", "same classes")


def test_a_sampling_of_unknown_names(both, data, trained):
    values = {"model_path": trained, "results_path": "samples", "data_dir": data}
    check_error(both("sample", **values, flip_pairs=[["mould", "lemonade"]]), "flip_pairs", "'lemonade'")
    check_error(both("sample", **values, weights="0.5"), trained / BEST, "weights is '0.5'")


def test_an_export_of_what_is_not_known(both, data, trained, tmp_path):
    (data / "classes.json").unlink()
    check_error(both("export", data_dir=data, format="coco", export_path="new"), "dataset_mode", "classes.json")
    (tmp_path / "there.pt").write_text("")
    check_error(both("export", model_path=trained, export_path="there.pt"), "export_path", "exists already")
    line = both("export", model_path=trained, export_path="new.pt", weights="0.5")
    check_error(line, trained / BEST, "weights is '0.5'")
