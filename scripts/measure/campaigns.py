"""Disturb runs of train, sample and evaluate at random times, and see that each ends as an undisturbed one does.

    python -m scripts.measure.campaigns [--output runs/campaigns] [--runs 30 15 15] [--seed 0] [--workers 0]

A run is started, disturbed once to three times, and finished by the same command. It is disturbed by kill -9, by a stop
signal (SIGTERM, SIGINT, SIGHUP), by a full disk, or by a second process that is started with the same command. A disk
is full by a limit on the size of files, and where a tmpfs can be mounted (as root) by one without room. Moments and
sizes are drawn from the seed and spread over the time, or the files, of the undisturbed run.

Each start has to end with code 0, or with what its disturbance calls for: one line of error and code 2, or one line
and 128 + the signal's number. Each run then has to leave the same bytes as the undisturbed one, and nothing
half-written. Prints a table in Markdown, and a line for each run that did otherwise; then the exit code is 1.

Linux and macOS only: the processes are forked from this one, so that PyTorch is imported once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from guided_diffusion import cli
from guided_diffusion.data.lemons import write_demo_dataset

ACTIONS = ("train", "sample", "evaluate")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
DISTURBANCES = ("kill", "signal", "disk", "two")
ENDED = "[the command line has ended]"
PATIENCE = 600
"""Seconds after which a start counts as hanging."""
MOUNT_BYTES = 1536 * 2**20

NETWORK = {
    "dataset_mode": "multi-class",
    "image_size": 16,
    "num_channels": 32,
    "channel_mult": [1, 1],
    "num_res_blocks": 1,
    "attention_resolutions": [8],
    "diffusion_steps": 50,
    "batch_size": 3,
    "ema_rate": [0.9, 0.99],
}
RUNS: dict[str, dict[str, Any]] = {
    "train": {
        **NETWORK,
        "data_dir": "../data",
        "output_dir": "run",
        "max_epochs": 8,
        "lr": 1e-3,
        "drop_rate": 0.3,
        "dropout": 0.1,
        "preview_interval": 4,
        "preview_images": 1,
        "preview_steps": 2,
        "tensorboard": False,
    },
    "sample": {
        "model_path": "../model/run",
        "data_dir": "../data",
        "data_split": "train",
        "results_path": "run",
        "num_samples": 24,
        "batch_size": 2,
        "steps": 4,
    },
    "evaluate": {
        "data_dir": "../data",
        "synthetic_dir": "../samples/run",
        "output_dir": "run",
        "image_size": 32,
        "architectures": "fpn",
        "encoder": "resnet18",
        "encoder_weights": "none",
        "ratios": [1],
        "seeds": 1,
        "train_steps": 2,
        "batch_size": 2,
        "inception_weights": "none",
        "lpips_weights": "none",
        "filter_below": 0.001,
        "report_images": 2,
    },
}
TIMED = ("images_per_second", "peak_memory_gib")
"""Of the metrics of an epoch: what is not the same twice."""


@dataclass
class Start:
    """One process of the command line: what it printed and how it ended."""

    process: Any
    shown: Path

    def end(self) -> int:
        """Wait for the end and return the exit code, negative for the signal that killed it."""
        self.process.join(PATIENCE)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"longer than {PATIENCE} s")
        return self.process.exitcode

    @property
    def errors(self) -> list[str]:
        """The lines of standard error that are no progress bar; a traceback counts as one, with its end."""
        text = self.shown.read_text(errors="replace").replace("\r", "\n") if self.shown.exists() else ""
        lines = [line for line in text.splitlines() if line.startswith(("error", "interrupted"))]
        start = text.find("Traceback")
        return lines if start < 0 else [*lines, text[start:][-2000:]]


@dataclass
class Campaign:
    """The runs of one action, and what is compared with."""

    action: str
    root: Path
    draw: random.Random
    values: dict[str, Any]
    room: Path | None = None
    seconds: float = 0.0
    expected: dict[str, bytes] = field(default_factory=dict)
    starts: Counter[str] = field(default_factory=Counter)

    def start(self, place: Path, largest: int | None = None) -> Start:
        """Start the command in `place`; no file may grow beyond `largest` bytes."""
        place.mkdir(exist_ok=True)
        shown = place / f"shown-{len(list(place.glob('shown-*')))}.txt"
        arguments = [self.action, *(f"--set={key}={json.dumps(value)}" for key, value in self.values.items())]
        process = multiprocessing.get_context("fork").Process(target=_child, args=(arguments, place, shown, largest))
        process.start()
        return Start(process, shown)

    def undisturbed(self) -> None:
        """Run the command once and keep what it leaves."""
        place = self.root / f"{self.action}-whole"
        started = time.monotonic()
        start = self.start(place)
        code = start.end()
        self.seconds = time.monotonic() - started
        assert code == 0, f"{self.action} ended with {code}: {start.shown.read_text()[-2000:]}"
        self.expected = _left_in(place / "run")

    def disturbed(self, number: int, kind: str) -> str:
        """Disturb a run, finish it, and return what is wrong with it, "" for nothing."""
        place = self.root / f"{self.action}-{number:03d}-{kind}"
        try:
            for _ in range(self.draw.randint(1, 3)):
                DISTURB[kind](self, place)
                self.starts[kind] += 1
            last = self.start(place)
            if last.end() != 0:
                return f"the last start ended with {last.process.exitcode}: {last.errors or last.shown}"
            wrong = self.differences(place / "run")
        except AssertionError as error:
            return str(error)
        if not wrong:
            shutil.rmtree(place)
        return wrong

    def differences(self, folder: Path) -> str:
        """Return which files are others than those of the undisturbed run."""
        found = _left_in(folder)
        names = sorted(name for name in {*found, *self.expected} if found.get(name) != self.expected.get(name))
        return f"differ: {', '.join(names[:5])}" if names else ""

    def wait(self) -> None:
        """Wait for a random part of an undisturbed run's time."""
        time.sleep(self.draw.uniform(0, self.seconds))


def _child(arguments: Sequence[str], place: Path, shown: Path, largest: int | None) -> None:
    """Run the command line in this new process."""
    try:
        os.setpgrp()
        output = os.open(shown, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(place)
        if largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
        sys.stdout = open(1, "w", closefd=False, buffering=1)  # noqa: SIM115 - this process's own
        sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
        torch.set_num_threads(1)  # of a forked process: see `study.at_once`
        code = cli.main(arguments)
        with contextlib.suppress(OSError):
            print(ENDED)
        sys.exit(code)
    except KeyboardInterrupt:  # before the command line began, or after it ended
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def _left_in(folder: Path) -> dict[str, bytes]:
    """Return the files of a finished run by their names, without the time that it took and the place where it lies."""
    left = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "log.txt"):
        content = path.read_bytes()
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in content.splitlines()]
            content = json.dumps([{k: v for k, v in line.items() if k not in TIMED} for line in lines]).encode()
        if path.suffix in (".json", ".html"):
            content = content.replace(os.fsencode(folder.parent), b"")
        left[path.relative_to(folder).as_posix()] = content
    return left


# ---- disturbances ------------------------------------------------------------------------------------------------


def kill(campaign: Campaign, place: Path) -> None:
    """End a process by kill -9."""
    start = campaign.start(place)
    campaign.wait()
    start.process.kill()
    assert start.end() in (0, -signal.SIGKILL), f"killed, ended with {start.process.exitcode}: {start.errors}"


def stop(campaign: Campaign, place: Path) -> None:
    """Ask a process, or its whole group, to stop."""
    start, number = campaign.start(place), campaign.draw.choice(SIGNALS)
    campaign.wait()
    # Its group is there once it has made it; before, and after the end, there is nothing to be asked.
    send = campaign.draw.choice([os.kill, os.killpg])
    with contextlib.suppress(ProcessLookupError):
        send(start.process.pid, number)
    code, errors = start.end(), start.errors
    # In the first moments nobody has said yet what is to be done.
    early = (code == -number and not start.shown.exists()) or (code == -number and not start.shown.stat().st_size)
    stopped = code == 128 + number and len(errors) == 1 and errors[0].startswith("interrupted")
    assert code == 0 or stopped or early, f"{signal.Signals(number).name}, ended with {code}: {errors}"


def fill_disk(campaign: Campaign, place: Path) -> None:
    """Let a process come to the end of the room for a file, or for all files."""
    largest = max(map(len, campaign.expected.values()))
    if campaign.room is None or campaign.draw.random() < 0.5:
        start = campaign.start(place, largest=int(campaign.draw.uniform(2_000, largest)))
        _refused_in_one_line(start)
        return
    free = int(campaign.draw.uniform(0, 1.2 * sum(map(len, campaign.expected.values()))))
    filler = campaign.room / "filler"
    status = os.statvfs(campaign.room)
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, status.f_bavail * status.f_frsize - free))
    try:
        start = campaign.start(place)
        start.end()
    finally:
        filler.unlink()
    _refused_in_one_line(start)


def _refused_in_one_line(start: Start) -> None:
    code, errors = start.end(), start.errors
    # With no room at all there is none for the line either: what is printed lies on the same disk.
    refused = code == 2 and len(errors) <= 1 and not any(line.startswith("Traceback") for line in errors)
    assert code == 0 or refused, f"full disk, ended with {code}: {errors}"


def start_twice(campaign: Campaign, place: Path) -> None:
    """Start a second process while the first one runs."""
    first = campaign.start(place)
    campaign.wait()
    second = campaign.start(place)
    codes = first.end(), second.end()
    assert 0 in codes, f"two at once ended with {codes}: {first.errors + second.errors}"
    for start in (first, second):
        one_line = len(start.errors) == 1 and "is writing here" in start.errors[0]
        assert start.process.exitcode == 0 or one_line, f"two at once: {start.process.exitcode}, {start.errors}"


DISTURB: dict[str, Callable[[Campaign, Path], None]] = dict(
    zip(DISTURBANCES, (kill, stop, fill_disk, start_twice), strict=True)
)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """Yield a folder on a disk of its own, None where none can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={MOUNT_BYTES}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def run_campaigns(root: Path, runs: Sequence[int], seed: int, workers: int) -> tuple[list[str], list[str]]:
    """Return the table of all campaigns, and a line for each run that went wrong."""
    torch.set_num_threads(1)
    # What takes most of a start; an optimizer imports torch._dynamo, a loss curve matplotlib.
    for name in (*(f"guided_diffusion.actions.{action}" for action in ACTIONS), "torch._dynamo", "matplotlib.figure"):
        import_module(name)
    table = ["| action | disturbed by | runs | starts disturbed | equal | wrong |", "|---|---|---|---|---|---|"]
    wrong = []
    shutil.rmtree(root, ignore_errors=True)
    with small_disk(root / "disk") as room:
        place = room or root
        write_demo_dataset(place / "data", num_train=8, num_test=4, size=24)
        for action, count in zip(ACTIONS, runs, strict=True):
            values = RUNS[action] | ({"num_workers": workers} if action == "train" else {})
            campaign = Campaign(action, place, random.Random(f"{seed} {action}"), values, room)
            campaign.undisturbed()
            # The next action takes what this one made.
            (place / {"train": "model", "sample": "samples"}.get(action, "report")).symlink_to(f"{action}-whole")
            outcomes: dict[str, list[str]] = {kind: [] for kind in DISTURBANCES}
            for number in range(count):
                kind = DISTURBANCES[number % len(DISTURBANCES)]
                outcome = campaign.disturbed(number, kind)
                outcomes[kind].append(outcome)
                if outcome:
                    wrong.append(f"{action} {number}, {kind}: {outcome}")
                print(f"{action} {number + 1}/{count}, {kind}: {outcome or 'equal'}", file=sys.stderr, flush=True)
            for kind, found in outcomes.items():
                bad = sum(map(bool, found))
                table.append(
                    f"| {action} | {kind} | {len(found)} | {campaign.starts[kind]} | {len(found) - bad} | {bad} |"
                )
        if wrong:
            shutil.copytree(place, root / "kept", symlinks=True, dirs_exist_ok=True)
    return table, wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Run the campaigns, print their table and return 1 where a run went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/campaigns"))
    parser.add_argument("--runs", type=int, nargs=3, default=[30, 15, 15], metavar=("TRAIN", "SAMPLE", "EVALUATE"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="loading processes of each training")
    options = parser.parse_args(argv)
    table, wrong = run_campaigns(options.output.absolute(), options.runs, options.seed, options.workers)
    print(*table, *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
