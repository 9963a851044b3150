"""`kill -9` at random moments: the same command always goes on, and ends with the weights of an uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import finish, start
from tiny import TINY, TWO_LEVELS

from guided_diffusion.runtime.checkpoint import BEST, LAST, load_checkpoint

KILLS = int(os.environ.get("ISDM_KILLS", "3"))
"""More than the suite has time for: ISDM_KILLS=20 python -m pytest tests/actions/test_killed_training.py"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows"),
]


def wait_for_log(process, folder: Path, begun: int = 0) -> None:
    """Wait until the log of a run is longer than `begun` bytes, or the run over."""
    log = folder / "log.txt"
    while process.is_alive() and not (log.exists() and log.stat().st_size > begun):
        time.sleep(0.005)


def test_killed_training_equals_uninterrupted(lemons, tmp_path):
    epochs = 4 * KILLS
    whole = {**TINY, "data_dir": str(lemons), "output_dir": str(tmp_path / "whole"), "max_epochs": epochs}
    whole |= {"drop_rate": 0.3, "dropout": 0.1, "rotate90": True, "ema_rate": [0.9, 0.99]}
    process = start("train", whole)
    wait_for_log(process, tmp_path / "whole")
    began = time.monotonic()
    assert finish(process) == 0
    seconds_an_epoch = (time.monotonic() - began) / epochs
    killed = {**whole, "output_dir": str(tmp_path / "killed")}
    folder = tmp_path / "killed"
    draw = random.Random(0)
    kills = 0
    while kills < KILLS:
        log = folder / "log.txt"
        begun = log.stat().st_size if log.exists() else 0
        process = start("train", killed)
        wait_for_log(process, folder, begun)
        time.sleep(draw.uniform(0, 3) * seconds_an_epoch)
        process.kill()
        if finish(process) == 0:
            break
        kills += 1
        for name in (LAST, BEST):
            if (folder / name).exists():
                load_checkpoint(folder / name)
    assert kills >= min(KILLS, 3), "the run was over before it could be killed"
    assert finish(start("train", killed)) == 0
    for name in (LAST, BEST):
        first, second = load_checkpoint(tmp_path / "whole" / name), load_checkpoint(folder / name)
        for ours, theirs in ((first.model, second.model), *((first.ema[r], second.ema[r]) for r in first.ema)):
            assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
        assert first.progress["step"] == second.progress["step"]
    assert {path.name for path in folder.glob(".*")} == set(), "temporary files are left"
    found = [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert found == list(range(1, epochs + 1))


def test_a_latent_run_stopped_and_killed_in_its_first_phase_equals_an_uninterrupted_one(lemons, tmp_path):
    values = {**TWO_LEVELS, "data_dir": str(lemons), "max_epochs": 2, "latent": 4, "image_size": 32, "gate": 0}
    values |= {"attention_resolutions": [4], "allow_thin": True, "autoencoder_channels": 8, "autoencoder_steps": 60}
    whole, stopped = ({**values, "output_dir": str(tmp_path / name)} for name in ("whole", "stopped"))
    assert finish(start("train", whole)) == 0
    folder, step = tmp_path / "stopped", 0
    for ending in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        begun = (folder / "log.txt").stat().st_size if (folder / "log.txt").exists() else 0
        process = start("train", stopped, shown=tmp_path / "shown.txt")
        wait_for_log(process, folder, begun)
        time.sleep(0.3)
        os.kill(process.pid, ending)
        assert finish(process) == (143 if ending == signal.SIGTERM else -ending), "it was over before it was stopped"
        state = load_checkpoint(folder / LAST).first_stage
        assert step <= state["step"] < 60
        step = state["step"]
        if ending == signal.SIGTERM:
            assert str(folder / LAST) in (tmp_path / "shown.txt").read_text().splitlines()[-1]
    assert step > 0
    assert finish(start("train", stopped)) == 0
    for name in (LAST, BEST):
        first, second = (load_checkpoint(path / name) for path in (tmp_path / "whole", folder))
        assert not second.first_stage
        assert first.latent == second.latent
        for ours, theirs in ((first.model, second.model), *((first.ema[r], second.ema[r]) for r in first.ema)):
            assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (getattr(signal, "SIGHUP", 0), 129)]
)
def test_signals_to_the_process_group_save_and_exit_with_their_code(lemons, tmp_path, number, code, workers):
    folder = tmp_path / "run"
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(folder), "max_epochs": 1000, "num_workers": workers}
    process = start("train", values, shown=tmp_path / "shown.txt")
    while process.is_alive() and not (folder / LAST).exists():
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(process.pid, number)
    assert finish(process) == code
    shown = (tmp_path / "shown.txt").read_text()
    assert str(folder / LAST) in shown.splitlines()[-1], "it does not say from what it resumes"
    assert "Traceback" not in shown
    step = load_checkpoint(folder / LAST).progress["step"]
    assert step > 0


def test_the_second_of_two_trainings_is_refused_at_once(lemons, tmp_path):
    folder = tmp_path / "run"
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(folder), "max_epochs": 1000, "num_workers": 2}
    first = start("train", values)
    try:
        while not (folder / LAST).exists():
            time.sleep(0.02)
        assert finish(start("train", values, shown=tmp_path / "second.txt")) == 2
        (line,) = [text for text in (tmp_path / "second.txt").read_text().splitlines() if text.startswith("error: ")]
        assert str(first.pid) in line
    finally:
        first.kill()
        finish(first)
    # Its workers may live for some seconds; what it held is free.
    finished = {**values, "max_epochs": load_checkpoint(folder / LAST).progress["epoch"] + 1, "num_workers": 0}
    assert finish(start("train", finished)) == 0
    assert not list(folder.glob(".*")), "locks or temporary files are left"


@pytest.mark.parametrize("number", [signal.SIGTERM, getattr(signal, "SIGHUP", 0)])
def test_sampling_stops_and_resumes(trained, lemons, tmp_path, number):
    folder = tmp_path / "out"
    values = {"model_path": str(trained), "data_dir": str(lemons), "results_path": str(folder), "steps": 20}
    values |= {"num_samples": 400, "batch_size": 2}
    process = start("sample", values, shown=tmp_path / "shown.txt")
    while not (folder / "images").is_dir() or len(list((folder / "images").iterdir())) < 2:
        time.sleep(0.02)
    os.kill(process.pid, number)
    assert finish(process) == 128 + number
    shown = (tmp_path / "shown.txt").read_text()
    assert shown.splitlines()[-1] == "interrupted"
    assert "Traceback" not in shown
    assert not [path for path in folder.rglob(".*") if path.name not in (".synthetic", ".manifest-0.jsonl")]
