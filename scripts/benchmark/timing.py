"""Timing in interleaved rounds, and memory in separate processes, for `run.py`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from guided_diffusion.runtime.memory import keep_freed_memory, peak_memory_gib
from scripts.benchmark.cases import Case, make_batch
from scripts.benchmark.fresh import in_fresh_process
from scripts.benchmark.variants import VARIANTS, Step, training_step

START_SECONDS = 8.0
"""A rough guess of what a process takes before its first step, for progress bars only."""


@dataclass(frozen=True)
class Ratio:
    """A ratio of times.

    value: of the medians. quartiles: of the ratios of the single rounds, where there were rounds.
    """

    value: float
    quartiles: tuple[float, float, float] | None = None

    def __str__(self) -> str:
        if self.quartiles is None:
            return f"{self.value:.2f}"
        return f"{self.value:.2f} ({self.quartiles[0]:.2f} to {self.quartiles[2]:.2f})"


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """Return the ratio of two rows of times, the times of one round at the same place in both."""
    by_round = [a / b for a, b in zip(above, below, strict=True)]
    quartiles = statistics.quantiles(by_round, n=4, method="inclusive") if len(by_round) > 1 else by_round * 3
    return Ratio(statistics.median(above) / statistics.median(below), tuple(quartiles))


class Progress:
    """A bar on stderr that counts guessed seconds, so that the time left is about right."""

    def __init__(self, seconds: float):
        self._bar = tqdm(total=seconds, bar_format="{desc:36} {percentage:3.0f}% |{bar}| {elapsed} < {remaining}")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def now(self, what: str) -> None:
        """Show what is being measured."""
        self._bar.set_description_str(what)

    def done(self, seconds: float) -> None:
        """Count guessed seconds as done."""
        # The guesses do not sum up to the last bit.
        self._bar.update(min(seconds, self._bar.total - self._bar.n))


def interleaved(
    steps: Mapping[str, Step], rounds: int, device: str, done: Callable[[str], None] = lambda name: None
) -> dict[str, list[float]]:
    """Return the seconds of each step in each round; a round runs every step once, in an order that rotates.

    Before, each runs `warm_up_runs`. done: called with the name after each run.
    """
    for name, step in steps.items():
        for _ in range(warm_up_runs(device)):
            step()
            done(name)
    synchronize(device)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            started = time.perf_counter()
            steps[name]()
            synchronize(device)
            seconds[name].append(time.perf_counter() - started)
            done(name)
    return seconds


def warm_up_runs(device: str) -> int:
    """Return how often a step runs before it is timed: libraries choose and compile what they run."""
    return 1 if torch.device(device).type == "cpu" else 3


def synchronize(device: str) -> None:
    """Wait until `device` has finished its work."""
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()


def peak_training_memory(case: Case, name: str, measure: Callable[[Case, str], float] | None = None) -> float:
    """Return the most memory in GiB of training steps of a variant, or what `measure` does, in a separate process.

    On a GPU it is what PyTorch allocated; on a CPU the largest resident size less that before the network was built.
    Raises ChildProcessError if the process fails.
    """
    try:
        return in_fresh_process(measure or _train_for_memory, case, name)
    except ChildProcessError as error:
        raise ChildProcessError(f"{name}, {case.title}, batch {case.batch}: {error}") from error


def _train_for_memory(case: Case, name: str) -> float:
    VARIANTS[name].load()
    return memory_of_steps(case, lambda: training_step(VARIANTS[name](case), make_batch(case)))


def memory_of_steps(case: Case, build: Callable[[], Step]) -> float:
    """Return the most memory in GiB that steps of training take in this process, which does nothing else."""
    device, before = torch.device(case.device), 0.0
    if device.type == "cpu":
        keep_freed_memory()
        before = resident_gib()
    step = build()
    for _ in range(3):  # the optimizer's averages are there from the second on
        step()
    return peak_memory_gib(device) - before


def resident_gib() -> float:
    """Return the resident size of this process now in GiB, or its peak so far if the system has only that."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_memory_gib(torch.device("cpu"))
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 2**20
