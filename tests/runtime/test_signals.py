"""Stop signals: one is a request, the second acts; a hangup is never the second, and takes the terminal with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guided_diffusion.runtime.signals import STOP_SIGNALS, GracefulExit, StopRequested, stop_signals_raise

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither SIGHUP nor signals to others")


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_one_is_a_request(number):
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    with GracefulExit() as stop:
        signal.raise_signal(number)
        assert stop.signal_number == number
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before


def test_a_second_one_acts():
    with GracefulExit() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_terminal_that_is_closed_sends_two():
    with GracefulExit() as stop:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
        assert stop.signal_number == signal.SIGHUP


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals_raise(), GracefulExit() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.signal_number == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_elsewhere_they_raise_what_an_interrupt_raises(number):
    with pytest.raises(StopRequested) as stop, stop_signals_raise():
        signal.raise_signal(number)
    assert stop.value.signal_number == number
    assert isinstance(stop.value, KeyboardInterrupt)


STOPPED_BY_CTRL_BREAK = """
import signal
signal.SIGBREAK = signal.SIGUSR1  # whose usual effect is the same: the process is gone
from guided_diffusion.runtime.signals import GracefulExit, StopRequested, stop_signals_raise
with GracefulExit() as stop:
    signal.raise_signal(signal.SIGBREAK)
try:
    with stop_signals_raise():
        signal.raise_signal(signal.SIGBREAK)
except StopRequested as raised:
    print(stop.signal_number == raised.signal_number == signal.SIGBREAK)
"""


def test_ctrl_break_of_windows_asks_to_stop():
    command = [sys.executable, "-c", STOPPED_BY_CTRL_BREAK]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr


ON_A_TERMINAL = """
import sys, time
from pathlib import Path
from guided_diffusion.runtime.signals import GracefulExit
with GracefulExit() as stop:
    print("ready", flush=True)
    while not stop.signal_number:
        time.sleep(0.01)
    for _ in range(100):
        print("more", flush=True)
        print("more", file=sys.stderr, flush=True)
Path(sys.argv[1]).write_text(str(stop.signal_number))
"""


def test_what_is_printed_to_a_closed_terminal_is_no_error(tmp_path):
    import pty

    pid, terminal = pty.fork()
    if not pid:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", ON_A_TERMINAL, str(tmp_path / "done")])
    assert b"ready" in os.read(terminal, 100)
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0
    assert (tmp_path / "done").read_text() == str(int(signal.SIGHUP))


WORKERS = """
import os, signal, subprocess, sys, time
import torch
from guided_diffusion.runtime.signals import leave_signals_to_the_trainer, stop_signals_held

class Slow(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, index):
        time.sleep(0.1)
        return index

def main():
    torch.multiprocessing.set_start_method(sys.argv[1])
    if sys.argv[1] == "forkserver":  # so that each worker need not import it
        torch.multiprocessing.get_context("forkserver").set_forkserver_preload(["torch"])
    # Workers that stay, so that those that are ended below need not start first.
    options = {"worker_init_fn": leave_signals_to_the_trainer, "persistent_workers": True}
    loader = torch.utils.data.DataLoader(Slow(), num_workers=2, **options)
    caught = []
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: caught.append(number))
    with stop_signals_held():
        batches = iter(loader)
        workers = [worker.pid for worker in batches._workers]
        # To a whole job, while its workers start; from elsewhere, as its own SIGTERM ends a worker.
        pids = [str(pid) for pid in (os.getpid(), *workers)]
        for name in ("HUP", "TERM", "INT"):
            subprocess.run(["kill", "-" + name, *pids], check=True)
    assert sorted(caught) == sorted((signal.SIGHUP, signal.SIGTERM, signal.SIGINT)), caught
    for pid in workers:  # and again, while they work
        for name in ("HUP", "TERM", "INT"):
            subprocess.run(["kill", "-" + name, str(pid)], check=True)
    assert len(list(batches)) == 8
    again = iter(loader)
    workers = again._workers
    next(again), next(again)  # from both: they have started
    for worker in workers:
        worker.terminate()
        worker.join(20)
        assert worker.exitcode == 0, worker.exitcode
    print("all there")

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_signals_to_a_job_do_not_end_workers_that_are_starting(start, tmp_path):
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    shown = subprocess.run([sys.executable, str(script), start], env=environment, capture_output=True, text=True)
    assert shown.stdout == "all there\n", shown.stderr
    assert time.monotonic() - started < 120
