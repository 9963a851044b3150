"""Weights and datasets to a hub on this machine and back, by the actions that a user runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import command_line
import numpy as np
import pytest
import torch
from error_lines import check_error
from local_hub import TOKEN, used_hub
from PIL import Image
from studio_client import studio
from tiny import TINY

from guided_diffusion import cli, load_pipeline
from guided_diffusion.runtime.checkpoint import LAST, load_checkpoint
from guided_diffusion.runtime.files import digest

ROOT = Path(__file__).parents[2]
FEW = {"steps": 2, "data_split": "train", "num_samples": 3}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, used_hub(tmp_path_factory.mktemp("cache"), patch) as hub:
        yield hub


@pytest.fixture(scope="module")
def pushed(hub, trained, tmp_path_factory) -> Path:
    """The weights of the shared run, exported, and pushed to user/lemons."""
    path = tmp_path_factory.mktemp("exported") / "lemons.safetensors"
    assert command_line.run("export", model_path=trained, export_path=path, push_to="user/lemons") == 0
    return path


def test_a_repository_has_exactly_what_was_exported(hub, pushed):
    repo = hub.repos["models/user/lemons"]
    assert repo.private
    files = {path.name: path.read_bytes() for path in pushed.parent.iterdir()}
    files["README.md"] = files.pop("model_card.md")
    assert repo.files == {".gitattributes": b"", **files}


@pytest.mark.slow
def test_samples_of_an_address_are_those_of_the_file(hub, pushed, lemons, isdm, tmp_path):
    folders = {}
    for name, model in (("file", pushed), ("hub", "hf:user/lemons")):
        folders[name] = tmp_path / name
        values = {"model_path": model, "data_dir": lemons, "results_path": folders[name], **FEW}
        code, shown, errors = isdm("sample", **values)
        assert (code, errors) == (0, [])
    commit = hub.repos["models/user/lemons"].commits[-1][0]
    exact = f"hf:user/lemons@{commit}/lemons.safetensors"
    assert f"weights of {exact}" in shown
    lines = {name: (folder / "manifest.jsonl").read_text().splitlines() for name, folder in folders.items()}
    for ours, theirs in zip(*(map(json.loads, each) for each in lines.values()), strict=True):
        assert (ours["hub"], theirs["hub"]) == (None, exact)
        assert ours["checkpoint"] == theirs["checkpoint"] == digest(pushed)
        first, second = (np.asarray(Image.open(folder / ours["image"])) for folder in folders.values())
        assert np.array_equal(first, second)
    assert json.loads((folders["hub"] / "config.json").read_text())["model_path"] == exact
    assert exact in (folders["hub"] / "dataset_card.md").read_text()
    # A commit that changes nothing of the weights is no reason to refuse going on.
    hub.repos["models/user/lemons"].commit({"more.txt": b""})
    values = {"model_path": "hf:user/lemons", "data_dir": lemons, "results_path": folders["hub"], **FEW}
    assert isdm("sample", **{**values, "num_samples": 4})[0] == 0


def test_the_studio_keeps_the_commit_and_says_when_another_one_is_taken(hub, pushed, lemons, tmp_path, capsys):
    def opened() -> str:
        with studio(model_path="hf:user/lemons", data_dir=lemons, results_path=tmp_path / "out"):
            commit = hub.repos["models/user/lemons"].commits[-1][0]
        exact = f"hf:user/lemons@{commit}/lemons.safetensors"
        assert json.loads((tmp_path / "out" / "train" / "config.json").read_text())["model_path"] == exact
        return exact

    before = opened()
    assert "note" not in capsys.readouterr().err
    hub.repos["models/user/lemons"].commit({"other.txt": b"1"})
    now = opened()
    assert f"was used with model_path {before}, and is now with {now}" in capsys.readouterr().err


def test_python_loads_it(pushed):
    pipelines = [load_pipeline(path) for path in (pushed, "hf:user/lemons")]
    labels = np.zeros((1, *pipelines[0].image_shape[1:]), np.uint8)
    first, second = (pipeline(labels, seeds=[0], steps=2) for pipeline in pipelines)
    assert torch.equal(first, second)
    assert pipelines[0].class_names == pipelines[1].class_names


@pytest.mark.slow
def test_finetuning_begins_from_it(pushed, hub, lemons, isdm, tmp_path):
    values = {key: TINY[key] for key in ("batch_size", "preview_interval", "tensorboard")}
    values |= {"data_dir": lemons, "resume_checkpoint": "hf:user/lemons", "output_dir": tmp_path / "run"}
    code, _, errors = isdm("finetune", **values, max_epochs=1)
    assert (code, errors) == (0, [])
    began = load_checkpoint(tmp_path / "run" / LAST).lineage["started_from"]
    assert began["digest"] == digest(pushed)
    assert began["path"].startswith("hf:user/lemons@")
    # An interrupted run needs its source no more.
    hub.requests.clear()
    assert isdm("finetune", **values, max_epochs=2)[0] == 0
    assert not hub.requests


def test_a_dry_run_says_where_weights_are_from(pushed, lemons, capsys, tmp_path):
    values = {"model_path": "hf:user/lemons", "data_dir": lemons, "results_path": tmp_path / "out", **FEW}
    assert cli.main([*command_line.arguments_of("sample", **values), "--dry-run"]) == 0
    assert "model_path: hf:user/lemons, from the Hugging Face Hub" in capsys.readouterr().out
    values = {"model_path": pushed, "export_path": tmp_path / "out.safetensors", "push_to": "user/planned"}
    assert cli.main([*command_line.arguments_of("export", **values), "--dry-run"]) == 0
    assert "would go to user/planned of the Hugging Face Hub, private" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_the_same_command_pushes_again_and_another_export_is_refused(pushed, hub, trained, isdm):
    commits = hub.repos["models/user/lemons"].commits
    before = len(commits)
    values = {"model_path": trained, "export_path": pushed}
    code, shown, _ = isdm("export", **values, push_to="user/lemons")
    assert code == 0
    assert "were there already" in shown
    assert len(commits) == before + 1
    for other in ({"push_to": "user/lemons", "weights": "raw"}, {}):
        code, _, (line,) = isdm("export", **{**values, **other})
        assert code == 2
        check_error(line, "export_path", "exists already")
    assert len(commits) == before + 1


def test_a_dataset_is_pushed_without_what_names_this_machine(hub, lemons, isdm, tmp_path):
    values = {"data_dir": lemons, "dataset_mode": "multi-class", "format": "hf", "export_path": tmp_path / "hf"}
    assert isdm("export", **values, push_to="user/lemons", push_private=False)[0] == 0
    repo = hub.repos["datasets/user/lemons"]
    assert not repo.private
    there = {path.relative_to(tmp_path / "hf").as_posix() for path in (tmp_path / "hf").rglob("*") if path.is_file()}
    assert repo.files.keys() - {".gitattributes"} == there - {"export.json", "dataset_card.md"} | {"README.md"}
    assert not [name for name, content in repo.files.items() if str(tmp_path).encode() in content]
    assert isdm("export", **values, push_to="user/lemons", push_private=False)[0] == 0  # as it is
    code, _, (line,) = isdm("export", **values, push_to="user/lemons")
    assert code == 2
    check_error(line, "push_to", "public")


def test_files_of_an_earlier_push_are_named(hub, lemons, isdm, tmp_path):
    """Fewer pairs are pushed to the same name: images of before would be loaded as part of the dataset."""
    data = tmp_path / "data"
    shutil.copytree(lemons, data)
    values = {"data_dir": data, "dataset_mode": "multi-class", "format": "hf", "push_to": "user/fewer"}
    code, shown, errors = isdm("export", **values, export_path=tmp_path / "first")
    assert code == 0, errors
    assert "warning" not in shown
    (gone, *_) = sorted((data / "train/images").iterdir())
    for kind in ("images", "masks"):
        next((data / "train" / kind).glob(f"{gone.stem}.*")).unlink()
    code, shown, errors = isdm("export", **values, export_path=tmp_path / "second")
    assert code == 0, errors
    (line,) = [line for line in shown.splitlines() if line.startswith("warning: user/fewer")]
    there = {path.relative_to(tmp_path / "second").as_posix() for path in (tmp_path / "second").rglob("*")}
    left = hub.repos["datasets/user/fewer"].files.keys() - there - {".gitattributes", "README.md"}
    assert left
    assert f"has {len(left)} files" in line
    assert sum(name in line for name in left) == min(3, len(left))


def test_what_other_tools_left_in_an_export_is_not_pushed(hub, lemons, isdm, tmp_path):
    values = {"data_dir": lemons, "dataset_mode": "multi-class", "format": "yolo", "export_path": tmp_path / "yolo"}
    assert isdm("export", **values)[0] == 0
    (tmp_path / "yolo/labels/train.cache").write_bytes(b"of Ultralytics, with paths")
    code, shown, errors = isdm("export", **values, push_to="user/cached")
    assert code == 0, errors
    assert "1 file of" in shown
    assert "not be uploaded: labels/train.cache" in shown
    names = hub.repos["datasets/user/cached"].files.keys()
    assert "labels/train.cache" not in names
    assert {"README.md", "data.yaml"} < names
    (tmp_path / "yolo/data.yaml").unlink()
    code, _, (line,) = isdm("export", **values, push_to="user/cached")
    assert code == 2
    check_error(line, tmp_path / "yolo/data.yaml", "gone")


def same_dataset(data, record):
    pass


def earlier_version(data, record):
    content = json.loads(record.read_text(encoding="utf-8"))
    del content["inputs"]
    record.write_text(json.dumps(content), encoding="utf-8")


def more_pairs(data, record):
    for kind in ("images", "masks"):
        shutil.copy(next((data / "train" / kind).iterdir()), data / "train" / kind / "more.png")


def other_pixels(data, record):
    first, second = sorted((data / "train" / "images").iterdir())[:2]
    shutil.copy(second, first)


def other_names(data, record):
    text = (data / "classes.json").read_text(encoding="utf-8")
    (data / "classes.json").write_text(text.replace("background", "backdrop"), encoding="utf-8")


@pytest.mark.parametrize("change", [same_dataset, more_pairs, other_pixels, other_names])
@pytest.mark.parametrize("version", [same_dataset, earlier_version])
def test_an_export_of_a_dataset_that_has_changed_is_not_pushed(hub, lemons, isdm, tmp_path, version, change):
    data, target = tmp_path / "data", tmp_path / "out"
    shutil.copytree(lemons, data)
    values = {"data_dir": data, "format": "coco", "export_path": target}
    assert isdm("export", **values)[0] == 0
    version(data, target / "export.json")
    change(data, target / "export.json")
    repository = f"user/{version.__name__}_{change.__name__}".replace("_", "-")
    code, _, errors = isdm("export", **values, push_to=repository)
    if change is same_dataset or (version is earlier_version and change is other_pixels):
        assert code == 0, errors
    else:
        assert (code, len(errors)) == (2, 1)
        check_error(errors[0], target, "export_path")
        assert f"datasets/{repository}" not in hub.repos


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"push_to": "lemons", "export_path": "a.safetensors"}, "push_to"),
        ({"push_to": "user/../lemons", "export_path": "a.safetensors"}, "push_to"),
        ({"push_to": "user/lemons", "export_path": "a.pt"}, "export_path"),
        (
            {"format": "coco", "data_dir": "d", "model_path": "", "evaluate_dir": "e", "export_path": "a"},
            "evaluate_dir",
        ),
        ({"model_path": "hf:user", "export_path": "a.pt"}, "model_path"),
        ({"model_path": "", "format": "coco", "data_dir": "hf:user/data", "export_path": "a"}, "data_dir"),
    ],
)
def test_mistakes_are_one_line(isdm, values, key):
    code, _, (line,) = isdm("export", **{"model_path": "run", **values})
    assert code == 2
    check_error(line, key)


def test_without_a_token_nothing_is_written(hub, trained, isdm, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    values = {"model_path": trained, "export_path": tmp_path / "a.safetensors", "push_to": "user/new"}
    code, _, (line,) = isdm("export", **values)
    assert code == 2
    check_error(line, "push_to", "no token", "HF_TOKEN")
    assert not any(tmp_path.iterdir())
    assert "models/user/new" not in hub.repos


def shells(*commands: list[str], **environment: str) -> tuple[list[int], str]:
    """Run commands in one other process, which knows the hub by its environment alone: their codes, and stderr."""
    known = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        env={**known, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


COMMANDS = """
import json, sys
from guided_diffusion import cli
codes = [cli.main(command) for command in json.loads(sys.argv[1])]
print(json.dumps(codes))
"""


@pytest.mark.slow
def test_in_processes_of_their_own(hub, pushed, trained, tmp_path):
    """By HF_ENDPOINT, HF_HOME and HF_TOKEN, and then without a network."""
    places = {"HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}

    def export(source: str, name: str, *more: str) -> list[str]:
        return ["export", f"--set=model_path={source}", f"--set=export_path={tmp_path / name}.safetensors", *more]

    push = export("hf:user/lemons", "a", "--set=push_to=user/again")
    codes, errors = shells(push, **places, HF_ENDPOINT=hub.address)
    assert codes == [0], errors
    assert hub.repos["models/user/again"].private
    assert load_checkpoint(tmp_path / "a.safetensors").config == load_checkpoint(pushed).config
    begun = time.monotonic()
    offline = [export("hf:user/lemons", "b"), export("hf:user/other", "c")]
    offline.append(export(str(trained), "d", "--set=push_to=user/other"))
    codes, errors = shells(*offline, **places, HF_ENDPOINT="http://127.0.0.1:9")
    assert codes == [0, 2, 2], errors  # the cache has the first
    assert "using the cache" in errors
    assert "\nerror: hf:user/other: the hub cannot be reached" in errors
    assert errors.count("error: ") == 2
    assert "Traceback" not in errors
    assert time.monotonic() - begun < 60  # most of it is the start of Python, on a busy machine
    assert {path.stem for path in tmp_path.glob("*.safetensors")} == {"a", "b"}
