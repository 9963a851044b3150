"""A config of one action handed to another: what is taken, what is left aside, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guided_diffusion.config.load import ACTIONS, load_config, read_config_file, read_keys, take_keys
from guided_diffusion.runtime.errors import ConfigError

ROOT = Path(__file__).parents[2]
TRAIN_CONFIGS = sorted(ROOT.glob("configs/**/*train*.json"))
TRAIN = {"data_dir": "d", "dataset_mode": "binary", "output_dir": "runs/a", "lr": 1e-3, "image_size": 32}


@pytest.mark.parametrize(
    "path",
    [path for path in TRAIN_CONFIGS if path.parent.name != "schema"],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_check_takes_every_shipped_train_config(path):
    values = read_config_file(path)
    if Path(values["$schema"]).stem != "train":
        return
    taken, line = take_keys("check", values)
    config = load_config("check", taken)
    trained = load_config("train", take_keys("train", values)[0])
    shared = ("data_dir", "dataset_mode", "image_size", "image_channels", "resize", "no_instance", "batch_size")
    assert {key: config.get(key) for key in shared} == {key: trained.get(key) for key in shared}
    assert "lr" in line
    assert "lr" not in taken
    assert config.output_dir == "runs/check", "the folder of the training is not that of the check"


def test_a_config_of_the_action_itself_is_taken_whole():
    for schema in ({}, {"$schema": "schema/train.json"}):
        assert take_keys("train", {**schema, **TRAIN}) == (TRAIN, "")


@pytest.mark.parametrize("sign", [{"num_channels": 32}, {"$schema": "../schema/train.json"}])
def test_keys_of_the_same_name_and_another_meaning_are_left_aside(sign):
    taken, line = take_keys("evaluate", {**sign, **TRAIN, "batch_size": 4, "seed": 3, "vertical_flip": True})
    assert taken == {"data_dir": "d", "dataset_mode": "binary"}
    for key in ("lr", "output_dir", "image_size", "batch_size", "seed", "vertical_flip"):
        assert key in line


def test_finetune_takes_what_a_train_config_says_of_the_optimizer():
    values = {"$schema": "schema/train.json", **TRAIN, "resume_checkpoint": "auto", "batch_size": 4}
    taken, line = take_keys("finetune", values)
    assert taken["lr"] == 1e-3
    assert taken["batch_size"] == 4
    assert "resume_checkpoint" in line
    assert "resume_checkpoint" not in taken


def test_a_config_of_several_actions_keeps_what_is_the_actions_own():
    """Keys that no single action has in common: each action takes its own."""
    values = {**TRAIN, "model_path": "runs/a", "results_path": "runs/b", "s": 1.5}
    assert take_keys("train", values)[0] == TRAIN
    assert take_keys("sample", values)[0] == {
        "data_dir": "d",
        "dataset_mode": "binary",
        "image_size": 32,
        "model_path": "runs/a",
        "results_path": "runs/b",
        "s": 1.5,
    }


def test_a_key_of_no_action_stays_an_error():
    taken, _ = take_keys("check", {**TRAIN, "image_sise": 64})
    with pytest.raises(ConfigError) as caught:
        load_config("check", taken)
    assert caught.value.keys == ("image_sise",)


def test_the_line_is_printed_once_and_names_every_key(lemons, tmp_path, isdm):
    path = tmp_path / "train.json"
    path.write_text(json.dumps({**TRAIN, "data_dir": str(lemons), "dataset_mode": "multi-class"}))
    code, shown, errors = isdm("check", path, output_dir=str(tmp_path / "checked"))
    assert code == 0, errors
    notes = [line for line in shown.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1
    assert all(key in notes[0] for key in ("lr", "output_dir", "train", str(path)))
    assert (tmp_path / "checked" / "train.png").exists()
    assert not Path("runs/a").exists()


def test_set_names_the_action_itself(lemons, isdm):
    code, _, errors = isdm("check", None, data_dir=str(lemons), dataset_mode="multi-class", lr=1e-3)
    assert code == 2
    assert any("lr" in line and "train" in line for line in errors)


@pytest.mark.parametrize("action", list(ACTIONS))
def test_every_key_stands_in_one_declaration_of_an_action(action):
    kind = ACTIONS[action]
    assert all(kind.declared_in(key).model_fields[key] for key in kind.fields())


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({}, False),
        ({"cond_diffuse": True}, False),
        ({"cond_diffuse": True, "cond_opt": "discrete_zero_classwise"}, True),
        ({"eta_scale": 0.5}, True),
    ],
)
def test_check_shows_eta_where_label_diffusion_is_asked_for(values, shown, lemons, tmp_path, isdm):
    path = tmp_path / "train.json"
    path.write_text(json.dumps({**TRAIN, "data_dir": str(lemons), "dataset_mode": "multi-class", **values}))
    code, output, errors = isdm("check", path, output_dir=str(tmp_path / "checked"), preview_images=0)
    assert code == 0, errors
    assert any("eta" in line.split() for line in output.splitlines()) == shown


class TestBase:
    @staticmethod
    def write(path: Path, **values) -> Path:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
        return path

    def test_keys_of_the_file_itself_count(self, tmp_path):
        self.write(tmp_path / "common.json", **TRAIN, batch_size=4, seed=3)
        file = self.write(tmp_path / "runs/a.json", base="../common.json", batch_size=2)
        assert read_keys("train", file) == ({**TRAIN, "batch_size": 2, "seed": 3}, "")

    def test_former_names_count_too(self, tmp_path):
        self.write(tmp_path / "common.json", memorisation=True)
        file = self.write(tmp_path / "a.json", base="common.json", near_duplicates=False)
        assert read_keys("evaluate", file)[0] == {"near_duplicates": False}

    def test_a_base_of_another_action_gives_what_both_mean_alike(self, tmp_path):
        self.write(tmp_path / "train.json", **{"$schema": "schema/train.json"}, **TRAIN)
        file = self.write(tmp_path / "a.json", **{"$schema": "schema/evaluate.json"}, base="train.json", seed=3)
        assert read_keys("evaluate", file) == ({"data_dir": "d", "dataset_mode": "binary", "seed": 3}, "")

    @pytest.mark.parametrize("base", ["", None, 3, "missing.json", "a.json", "broken.json"])
    def test_what_is_no_base(self, tmp_path, base):
        (tmp_path / "broken.json").write_text("{")
        file = self.write(tmp_path / "a.json", base=base)
        with pytest.raises(ConfigError) as caught:
            read_keys("train", file)
        assert caught.value.keys == ("base",)
        assert caught.value.messages[0].startswith(str(file))
