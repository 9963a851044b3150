"""How far a study's trainings are: a bar, a line and a result for each, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from evaluations.metrics.segmentation import scores
from guided_diffusion.pipelines.evaluation.results import StudyResults
from guided_diffusion.pipelines.study.runs import SegmenterRun, tested


class Progress:
    """The trainings that have no result yet, in their order, and what is told of them; a context manager.

    seconds: about how long a training of an architecture takes, if that is known. at_once: how many run at the same
    time. after_round: is called when all trainings of a seed are done.
    """

    def __init__(
        self,
        runs: Sequence[SegmenterRun],
        results: StudyResults,
        *,
        steps: int,
        seconds: Mapping[str, float],
        after_round: Callable[[], None],
        at_once: int = 1,
    ):
        self.todo = [run for run in runs if run.key not in results]
        self._left, self._total, self._steps, self._at_once = list(self.todo), len(runs), steps, at_once
        self._results, self._after_round = results, after_round
        self._clock = _Clock(seconds)
        self._started: dict[str, float] = {}
        self._shown: dict[str, int] = {}

    def __enter__(self) -> Progress:
        if len(self.todo) < self._total:
            print(f"{self._total - len(self.todo)} of {self._total} segmentation models are trained already")
        count = len(self.todo) * self._steps
        self._bar = tqdm(total=count, unit="step", disable=not self.todo, desc="segmentation")
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()

    def step_seconds(self, run: SegmenterRun) -> float | None:
        """Return about how long a step takes, None if that is not known."""
        seconds = self._clock.of(run)
        return None if seconds is None else seconds / self._steps

    def begin(self, run: SegmenterRun) -> None:
        """Note that a training begins, or goes on."""
        self._started[run.key] = time.monotonic()
        running = len(self._started)
        self._bar.set_postfix_str(run.key if running == 1 else f"{running} models", refresh=False)

    def show(self, run: SegmenterRun, step: int) -> None:
        """Move the bar to a step of a training."""
        self._bar.update(step - self._shown.get(run.key, 0))
        self._shown[run.key] = step

    def finish(self, run: SegmenterRun, result: dict[str, Any]) -> None:
        """Write the result of a training, say so, and write the report if its seed is done."""
        self._results[run.key] = result
        self._left.remove(run)
        took = time.monotonic() - self._started.pop(run.key)
        self._clock.note(run, result["seconds"] + result["test_seconds"])
        miou = scores(tested(result).defect_counts).foreground_miou
        left = f"{len(self._left)} left, about {duration(self._clock.total(self._left) / self._at_once)}"
        number = len(self.todo) - len(self._left)
        self.say(f"{number} of {len(self.todo)}: {run.key}: mIoU {100 * miou:.1f} %, {duration(took)}; {left}")
        if not any(each.repeat == run.repeat for each in self._left):
            self._after_round()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        tqdm.write(line)


class _Clock:
    """How long trainings take, by architecture: as estimated until one has been finished."""

    def __init__(self, seconds: Mapping[str, float]):
        self._seconds = {name: each for name, each in seconds.items() if each}

    def note(self, run: SegmenterRun, seconds: float) -> None:
        self._seconds[run.architecture] = seconds

    def of(self, run: SegmenterRun) -> float | None:
        return self._seconds.get(run.architecture)

    def total(self, runs: Sequence[SegmenterRun]) -> float:
        usual = sum(self._seconds.values()) / max(1, len(self._seconds))
        return sum(self._seconds.get(run.architecture, usual) for run in runs)


def duration(seconds: float) -> str:
    """Return a time in words: "40 s", "12 min", "3 h 20 min", "2 days 4 h"."""
    seconds = round(seconds)
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h"
