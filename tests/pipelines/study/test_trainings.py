"""Which models are trained, in which order, and what the estimate says of them."""

from __future__ import annotations

import pytest
import torch

from guided_diffusion.config.load import load_config
from guided_diffusion.config.study import ARMS, UNAUGMENTED, StudyConfig
from guided_diffusion.pipelines.evaluation.results import StudyResults
from guided_diffusion.pipelines.study.at_once import gpus_of, visible_gpus
from guided_diffusion.pipelines.study.estimate import Work, table
from guided_diffusion.pipelines.study.progress import duration
from guided_diffusion.pipelines.study.runs import SegmenterTraining, runs_of
from guided_diffusion.pipelines.study.trainings import agreement_run, forget_lost_segmenter, segmenter_path

REQUIRED = {"data_dir": "a", "dataset_mode": "multi-class", "good_dir": "b", "output_dir": "c", "train_config": "d"}


def config_of(**values) -> StudyConfig:
    return load_config("study", {**REQUIRED, **values})


def planned(config: StudyConfig):
    return runs_of(config.design, config.design.arms, config.segmenter.architectures)


def test_first_seeds_of_all_arms_and_amounts_come_first():
    runs = planned(config_of(amounts="20,60,all", seeds="5,5,3"))
    assert len(runs) == len(set(runs)) == len({run.key for run in runs}) == len(ARMS) * (5 + 5 + 3)
    assert [run.repeat for run in runs] == sorted(run.repeat for run in runs)
    first = [run for run in runs if run.repeat == 0]
    assert [(run.amount, run.arm) for run in first] == [(amount, arm) for amount in (20, 60, None) for arm in ARMS]
    assert {run.amount for run in runs if run.repeat == 4} == {20, 60}


def test_one_arm_is_not_augmented():
    training = SegmenterTraining(config_of().segmenter, 4, torch.device("cpu"), 0)
    assert [arm for arm in ARMS if not training.crops(arm).augment] == [UNAUGMENTED]


def test_other_architectures_are_trained_at_one_amount():
    runs = planned(config_of(amounts="20,60", seeds=2, architectures="unet,fpn", other_amount=60, arms="real,place"))
    assert {run.amount for run in runs if run.architecture == "fpn"} == {60}
    assert sum(run.architecture == "fpn" for run in runs) == 4
    assert sum(run.architecture == "unet" for run in runs) == 8


def test_masks_are_looked_for_by_a_model_of_real_and_good_images():
    run = agreement_run(config_of(amounts="all,20"), "unet")
    assert run in planned(config_of(amounts="all,20"))
    assert run.key == "unet-nall-real_good-0"
    assert agreement_run(config_of(arms="real,place"), "unet") is None


def test_a_model_of_another_run_looks_for_no_masks(tmp_path):
    config = config_of(amounts="20,60", output_dir=str(tmp_path))
    training = SegmenterTraining(config.segmenter, 4, torch.device("cpu"), 0)
    key = agreement_run(config, training.architectures[0]).key
    for run, kept in ((key, True), (None, True), ("unet-nall-real_good-0", False)):
        results = StudyResults(tmp_path / f"results_{run}", {}, {})
        results[key] = {"counts": {}}
        torch.save({"model": {}, **({} if run is None else {"run": run})}, segmenter_path(config))
        forget_lost_segmenter(training, config, results)
        assert (key in results) is kept


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(40, "40 s"), (600, "10 min"), (12000, "3 h 20 min"), (50 * 3600, "2 days 2 h")],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


def test_the_table_sums_what_is_left():
    work = [Work("generator", 100, 50, "steps", 2.0), Work("models", 10, 10, "trainings", 600.0)]
    lines = table(work).splitlines()
    assert len(lines) == 4
    assert lines[1].split() == ["generator", "100", "steps", "50", "2", "min"] or "100 s" in lines[1]
    assert lines[-1].endswith(duration(6100))


@pytest.mark.parametrize(
    ("setting", "count", "names"),
    [(None, 3, ["0", "1", "2"]), ("2,5", 2, ["2", "5"]), ("GPU-a, GPU-b,-1", 2, ["GPU-a", "GPU-b"]), ("", 0, [])],
)
def test_gpus_are_named_as_the_environment_has_them(setting, count, names):
    assert visible_gpus(setting, count) == names


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0", "cpu"])
def test_processes_take_turns_with_several_gpus(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    expected = ["2", "5", "2"] if device in ("auto", "cuda") else ["2,5"] * 3
    assert [gpus_of(number, device) for number in range(3)] == expected
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpus_of(1, device) is None
