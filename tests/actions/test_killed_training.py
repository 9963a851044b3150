"""`kill -9` at random moments: the same command always goes on, and ends with the weights of an uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import TINY

from guided_diffusion.runtime.checkpoint import BEST, LAST, load_checkpoint

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("ISDM_KILLS", "4"))
"""More than the suite has time for: ISDM_KILLS=20 python -m pytest tests/actions/test_killed_training.py"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows"),
]


def start(values: dict, **pipes) -> subprocess.Popen:
    arguments = [f"--set={key}={json.dumps(value)}" for key, value in values.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "main.py", "train", *arguments], cwd=ROOT, env=environment, **pipes)


QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def test_killed_training_equals_uninterrupted(lemons, tmp_path):
    whole = {**TINY, "data_dir": str(lemons), "output_dir": str(tmp_path / "whole"), "max_epochs": 12 * KILLS}
    whole |= {"drop_rate": 0.3, "dropout": 0.1, "rotate90": True}
    assert start(whole, **QUIET).wait() == 0
    killed = {**whole, "output_dir": str(tmp_path / "killed")}
    folder = tmp_path / "killed"
    draw = random.Random(0)
    kills = 0
    while kills < KILLS:
        process = start(killed, **QUIET)
        log = folder / "log.txt"
        begun = log.stat().st_size if log.exists() else 0
        # Importing PyTorch takes most of a start: count the delay from the first line of the log.
        while process.poll() is None and not (log.exists() and log.stat().st_size > begun):
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 1.2))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += 1
        for name in (LAST, BEST):
            if (folder / name).exists():
                load_checkpoint(folder / name)
    assert kills >= min(KILLS, 3), "the run was over before it could be killed"
    assert start(killed, **QUIET).wait() == 0
    for name in (LAST, BEST):
        first, second = load_checkpoint(tmp_path / "whole" / name), load_checkpoint(folder / name)
        for ours, theirs in ((first.model, second.model), *((first.ema[r], second.ema[r]) for r in first.ema)):
            assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
        assert first.progress["step"] == second.progress["step"]
    assert {path.name for path in folder.glob(".*")} == set(), "temporary files are left"
    epochs = [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, 12 * KILLS + 1))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (getattr(signal, "SIGHUP", 0), 129)]
)
def test_signals_to_the_process_group_save_and_exit_with_their_code(lemons, tmp_path, number, code, workers):
    folder = tmp_path / "run"
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(folder), "max_epochs": 1000, "num_workers": workers}
    process = start(values, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (folder / LAST).exists():
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(process.pid, number)
    errors = process.communicate()[1]
    assert process.returncode == code
    assert "the same command goes on from" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    step = load_checkpoint(folder / LAST).progress["step"]
    assert step > 0


def test_a_run_with_workers_ends_by_itself(lemons, tmp_path):
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(tmp_path / "run"), "max_epochs": 1, "num_workers": 2}
    assert start(values, **QUIET).wait(timeout=60) == 0


def test_the_second_of_two_trainings_is_refused_at_once(lemons, tmp_path):
    folder = tmp_path / "run"
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(folder), "max_epochs": 1000, "num_workers": 2}
    first = start(values, **QUIET)
    try:
        while not (folder / LAST).exists():
            time.sleep(0.02)
        second = start(values, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        errors = second.communicate()[1]
        assert second.returncode == 2
        (line,) = errors.splitlines()
        assert str(first.pid) in line
    finally:
        first.kill()
        first.wait()
    # Its workers may live for some seconds; what it held is free.
    finished = {**values, "max_epochs": load_checkpoint(folder / LAST).progress["epoch"] + 1}
    assert start(finished, **QUIET).wait() == 0
    assert not list(folder.glob(".*")), "locks or temporary files are left"


@pytest.mark.parametrize("number", [signal.SIGTERM, getattr(signal, "SIGHUP", 0)])
def test_sampling_stops_and_is_gone_on_with(trained, lemons, tmp_path, number):
    folder = tmp_path / "out"
    values = {"model_path": str(trained), "data_dir": str(lemons), "results_path": str(folder), "steps": 20}
    values |= {"num_samples": 400, "batch_size": 2}
    arguments = [f"--set={key}={json.dumps(value)}" for key, value in values.items()]
    process = subprocess.Popen(
        [sys.executable, "main.py", "sample", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not (folder / "images").is_dir() or len(list((folder / "images").iterdir())) < 2:
        time.sleep(0.02)
    process.send_signal(number)
    errors = process.communicate()[1]
    assert process.returncode == 128 + number
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
    assert not [path for path in folder.rglob(".*") if path.name not in (".synthetic", ".manifest-0.jsonl")]
