"""The report of a study, of planted results."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from command_line import charts_left_out
from parts import NAMES, WINDOWS

from evaluations.metrics.segmentation import Counts
from evaluations.segmentation.defect_scores import DefectTest
from guided_diffusion.config.load import load_config
from guided_diffusion.pipelines.study.generator import generator_of
from guided_diffusion.pipelines.study.report import study_record, write_report
from guided_diffusion.pipelines.study.runs import SegmenterRun, SegmenterTraining, runs_of
from guided_diffusion.pipelines.study.setup import prepare
from guided_diffusion.pipelines.study.trainings import StudyImages, open_results, results_of_other_images


def planted(share: float, images: int) -> DefectTest:
    """Return the test of a model that finds this share of each class."""
    truth = np.tile([2000, 0, 100, 200], (images, 1))
    hits = (truth * [1, 1, share, share]).astype(np.int64)
    missed = truth - hits
    wrong = np.zeros_like(truth)
    wrong[:, 0] = missed.sum(axis=1)
    return DefectTest(Counts(hits, wrong, missed))


@pytest.fixture
def reported(parts, good_parts, tmp_path):
    """Return what gives the images and the record of a finished study of some arms."""

    def record_of(arms: str) -> tuple[StudyImages, dict[str, Any]]:
        path = tmp_path / "train.json"
        path.write_text(json.dumps({**WINDOWS, "data_dir": "a", "output_dir": "b"}))
        values = {"data_dir": str(parts), "dataset_mode": "multi-class", "good_dir": str(good_parts), "amounts": "all"}
        values |= {
            "train_config": str(path),
            "output_dir": str(tmp_path / "out"),
            "encoder_weights": "none",
            "pairs": 3,
        }
        config = load_config("study", {**values, "arms": arms})
        setup = prepare(config)
        images, training = StudyImages.read(setup, {}), SegmenterTraining.of(setup, torch.device("cpu"))
        results = open_results(setup, training, images)
        runs = runs_of(config.design, setup.arms, training.architectures)
        for run in runs:
            test = planted((0.4 if run.arm == "real_good" else 0.6) + 0.01 * run.repeat, len(setup.test))
            keys = {"amount": "all", "arm": run.arm, "architecture": run.architecture, "repeat": run.repeat}
            results[run.key] = {**keys, **test.to_json()}
        return images, study_record(images, runs, results, {})

    return record_of


@pytest.mark.parametrize(
    ("arms", "judged"),
    [("real_good,repaint", "painted-over"), ("real_good,repaint,place", "placed"), ("real_good,copy_paste", "pasted")],
)
def test_the_report_names_what_was_judged_and_how_few_images_there_are(arms, judged, reported, tmp_path):
    images, record = reported(arms)
    (verdict,) = record["verdicts"].values()
    assert f"{judged} defects" in verdict["headline"].lower()
    assert record["data"]["classes"] == list(NAMES)
    assert verdict["kind"] == "helps"
    assert record["advice"] == (["the action paste makes such pairs, with blend match"] if judged == "pasted" else [])
    assert any(line.startswith(f"{len(images.setup.test)} defective test images") for line in record["warnings"])
    with charts_left_out():
        write_report(record, images, None)
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"Do {judged} defects help?" in page
    assert f"{judged.capitalize()} defects against" in page


@pytest.mark.parametrize(
    ("arms", "headline", "question"),
    [
        ("real", "No verdict: arms has none of place, repaint", "How well are defects segmented?"),
        ("real,real_good,mixed", "No verdict: arms has none of place, repaint", "How well are defects segmented?"),
        ("real,poisson", "Whether Poisson-blended defects help was not measured: arms has no real_good", "Do Poisson-"),
    ],
)
def test_a_study_without_the_arms_of_a_verdict_says_so(arms, headline, question, reported, tmp_path):
    images, record = reported(arms)
    (verdict,) = record["verdicts"].values()
    assert verdict["kind"] == "not measured"
    assert verdict["headline"].startswith(headline)
    with charts_left_out():
        write_report(record, images, None)
    page = (tmp_path / "out" / "report.html").read_text()
    assert headline in page
    assert question in page
    assert "efects against" not in page


def test_results_of_other_images_than_an_arm_has_now_are_told(reported):
    images, _ = reported("real_good,copy_paste")
    images.generators[None] = generator_of(images.setup, None)
    runs = [SegmenterRun(None, arm, "unet", repeat) for arm in images.setup.arms for repeat in (0, 1)]
    results = {run.key: {"images": images.arm(None, run.arm).images.digest} for run in runs}
    assert results_of_other_images(images, runs, results) == []
    results["unet-nall-copy_paste-1"] = {"images": "those of another place_config"}
    (line,) = results_of_other_images(images, runs, results)
    assert line.startswith("the result unet-nall-copy_paste-1 is of other images")
