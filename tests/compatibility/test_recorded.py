"""The numbers that d0a1d34 made out of a tiny dataset are still made out of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from holding import Tolerance, narrower, problems_of_report, problems_of_run, problems_of_samples, tolerance_of
from recording import Record, record_check, record_evaluation, record_runs, record_samples
from running import RUNS, SAMPLES, make_dataset, one_thread

pytestmark = pytest.mark.slow

RECORDED: Record = json.loads(Path(__file__).with_name("recorded_d0a1d34.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with the dataset, in which everything is made."""
    folder = tmp_path_factory.mktemp("recorded")
    make_dataset(folder / "data")
    return folder


@pytest.fixture(scope="module")
def runs(root) -> Record:
    with one_thread():
        return record_runs(root)


@pytest.fixture(scope="module")
def samples(root, runs) -> Record:
    with one_thread():
        return record_samples(root)


@pytest.fixture(scope="module")
def tolerance() -> Tolerance:
    return tolerance_of(RECORDED["machine"])


def _needs_the_recorded_dropout(name: str) -> None:
    """Skip what was recorded with dropout where PyTorch draws it otherwise, as 2.6 does; all other draws are alike."""
    torch.manual_seed(0)
    dropped = (torch.nn.functional.dropout(torch.ones(4, 64, 3, 3), 0.1) == 0).nonzero()[:4].tolist()
    if name == "others" and dropped != [[0, 0, 0, 0], [0, 0, 1, 0], [0, 3, 2, 2], [0, 5, 1, 0]]:
        pytest.skip(f"PyTorch {torch.__version__} draws dropout otherwise than the one of the recording")


def test_check_finds_the_same(root):
    # But that the test split has less than a batch, which says nothing: it is not trained on.
    recorded = ["no problems found" if "fewer than a batch" in line else line for line in RECORDED["check"]]
    assert record_check(root) == recorded


@pytest.mark.parametrize("name", RUNS)
def test_runs_end_with_the_same_weights_and_losses(name, runs, tolerance):
    _needs_the_recorded_dropout(name)
    assert problems_of_run(RECORDED["runs"][name], runs[name], tolerance) == []


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_the_same(name, samples, tolerance):
    _needs_the_recorded_dropout(name)
    assert problems_of_samples(RECORDED["samples"][name], samples[name], tolerance) == []


def test_the_report_says_the_same(root, runs):
    with one_thread():
        found = record_evaluation(root)
    tolerance = tolerance_of(RECORDED["machine"], libraries=True)
    assert problems_of_report(RECORDED["evaluation"], found, tolerance, few=True) == []
    if tolerance.exact:
        assert narrower(RECORDED["evaluation"], found) == []
