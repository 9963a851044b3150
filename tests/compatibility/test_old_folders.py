"""Folders that d0a1d34 has left are gone on with, and end as they did there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from folders import (
    CONTINUED,
    EVALUATION,
    FINETUNED,
    FINISHED,
    INTERRUPTED,
    MORE,
    STEPS,
    UNFINISHED,
    state_of,
    unpack_folders,
)
from holding import (
    Tolerance,
    narrower,
    problems_of_report,
    problems_of_run,
    problems_of_samples,
    problems_of_weights,
    tolerance_of,
)
from recording import Record
from running import isdm, one_thread

pytestmark = pytest.mark.slow

RECORDED: Record = json.loads(CONTINUED.read_text(encoding="utf-8"))
SEGMENTERS = ("real", "mix_1", "synthetic", "augmented", "copy_paste")


@pytest.fixture(autouse=True)
def _in_the_folders(tmp_path, monkeypatch):
    unpack_folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    with one_thread():
        yield


@pytest.fixture(scope="module")
def tolerance() -> Tolerance:
    return tolerance_of(RECORDED["machine"])


@pytest.mark.parametrize("step", ["resume", "finetune_further", "finetune_anew"])
def test_runs_go_on_to_the_same_weights(step, tolerance):
    assert problems_of_run(RECORDED[step], STEPS[step](), tolerance) == []


def test_the_interrupted_run_was_in_the_middle_of_an_epoch():
    progress = torch.load(INTERRUPTED / "last.pt", weights_only=True)["progress"]
    assert (progress["epoch"], progress["batch"], progress["step"]) == (1, 2, 5)


def test_a_finished_run_is_left_as_it_is():
    before = state_of(FINETUNED)
    isdm("finetune", FINETUNED / "config.json")
    assert state_of(FINETUNED) == before


@pytest.mark.parametrize("step", ["sample_anew", "sample_interrupted", "sample_exported"])
def test_old_checkpoints_sample_the_same(step, tolerance):
    assert problems_of_samples(RECORDED[step], STEPS[step](), tolerance) == []


@pytest.mark.parametrize(
    ("step", "folder", "there", "wanted"),
    [("finish_samples", UNFINISHED, 7, 9), ("add_samples", FINISHED / "train", 9, MORE)],
)
def test_samples_are_gone_on_with(step, folder, there, wanted, tolerance):
    before = state_of(folder)
    lines = [json.loads(line) for path in folder.glob("*manifest*") for line in path.read_text().splitlines()]
    kept = {line[kind] for line in lines for kind in ("image", "mask")}
    assert len(lines) == there
    assert problems_of_samples(RECORDED[step], STEPS[step](), tolerance) == []
    assert len(RECORDED[step]["manifest"]) == wanted
    after = state_of(folder)
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert [name for name in after if Path(name).name.startswith(".")] == []


def test_the_killed_command_left_half_a_pair():
    names = state_of(UNFINISHED)
    assert "images/pair_03_rep001.png" in names
    assert "masks/pair_03_rep001.png" not in names
    assert any(name.endswith(".tmp") for name in names)
    assert {".synthetic", ".manifest-0.jsonl", "manifest.jsonl"} < names.keys()


def test_a_second_evaluation_trains_nothing():
    before = state_of(EVALUATION / "study")
    trained = {f"linknet-{arm}-0.json" for arm in SEGMENTERS}
    assert trained < before.keys()
    found = STEPS["evaluate_again"]()
    after = state_of(EVALUATION / "study")
    assert {name: state for name, state in after.items() if name != "settings.json"} == {
        name: state for name, state in before.items() if name != "settings.json"
    }
    assert after["settings.json"][1] == before["settings.json"][1]
    tolerance = tolerance_of(RECORDED["machine"], libraries=True)
    recorded = RECORDED["evaluate_again"]
    assert problems_of_report(recorded, found, tolerance, trained=False, few=True) == []
    assert narrower(recorded, found) == []


def test_an_interrupted_evaluation_trains_what_is_missing():
    lost = EVALUATION / "study" / "linknet-synthetic-0.json"
    before, result = state_of(EVALUATION / "study"), json.loads(lost.read_text())
    lost.unlink()
    isdm("evaluate", EVALUATION / "config.json")
    after, again = state_of(EVALUATION / "study"), json.loads(lost.read_text())
    others = [name for name in before if name not in (lost.name, "settings.json")]
    assert {name: after[name] for name in others} == {name: before[name] for name in others}
    assert again.keys() >= result.keys()
    if tolerance_of(RECORDED["machine"], libraries=True).exact:
        assert {key: again[key] for key in result} == result


def test_exported_weights_are_those_of_the_checkpoint(tolerance):
    found = STEPS["export"]()
    recorded = RECORDED["export"]
    assert found["names"] == recorded["names"]
    assert list(problems_of_weights(found["names"], recorded["weights"], found["weights"], tolerance)) == []
    exported = torch.load("weights.pt", weights_only=True)
    averages = torch.load(FINETUNED / "best.pt", weights_only=True)["ema"]["0.95"]
    assert all(torch.equal(value, averages[name]) for name, value in exported.items())
