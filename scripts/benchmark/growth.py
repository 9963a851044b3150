"""Measurements of `run.py` on our network alone: how the time of its steps scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch

from scripts.benchmark.cases import Case, distinct_share, make_batch
from scripts.benchmark.timing import Ratio, interleaved, ratio
from scripts.benchmark.variants import Ours, Step, guided_steps, training_step

CLASSES = (2, 6, 19, 60, 151, 182)
SIZES = (32, 64, 128, 256)
BATCHES = (1, 2, 4, 8, 16)
OBJECTS = 4
"""Objects of a mask while classes grow: the same shapes for any number."""
Done = Callable[[Case, str], None]


@dataclass(frozen=True)
class Growth:
    """Times of ours over one dimension.

    distinct: value -> 5x5 patches by pixels at full size. seconds: part -> value -> the seconds of each round.
    ratios: part -> value -> over the first value.
    """

    dimension: str
    cases: Mapping[str, Case]
    distinct: Mapping[str, float]
    seconds: Mapping[str, Mapping[str, Sequence[float]]]
    ratios: Mapping[str, Mapping[str, Ratio]]


def growth_cases(base: Case) -> dict[str, dict[str, Case]]:
    """Return dimension -> value -> case; networks have the default levels of their size."""
    base = replace(base, size=64, channels=32, classes=6, masks=None)
    return {
        "classes": {f"{n}": replace(base, classes=n, objects=OBJECTS) for n in CLASSES},
        "classes, two in the masks": {f"{n}": replace(base, classes=n, objects=OBJECTS, shown=2) for n in CLASSES},
        "image size": {f"{n} px": replace(base, size=n, batch=min(4, base.batch)) for n in SIZES},
        "batch": {f"{n}": replace(base, batch=n) for n in BATCHES},
    }


def measure_growth(dimension: str, cases: Mapping[str, Case], rounds: int, done: Done) -> Growth:
    """Return the time of a training step and of a guided step of each case, interleaved."""
    device, seconds, ratios = next(iter(cases.values())).device, {}, {}
    for part, make in (("training", _training), ("guided", _guided)):
        steps = {value: make(case) for value, case in cases.items()}
        with torch.inference_mode(part == "guided"):
            times = interleaved(steps, rounds, device, lambda value, part=part: done(cases[value], part))
        first = next(iter(times.values()))
        seconds[part], ratios[part] = times, {value: ratio(row, first) for value, row in times.items()}
    distinct = {value: distinct_share(case) for value, case in cases.items()}
    return Growth(dimension, cases, distinct, seconds, ratios)


def _training(case: Case) -> Step:
    return training_step(Ours(case), make_batch(case))


def _guided(case: Case) -> Step:
    return guided_steps([Ours(case)], make_batch(case))["ours"]


def growth_lines(growth: Growth) -> list[str]:
    """Return the Markdown table of a growth study."""
    first = next(iter(growth.cases))
    lines = [
        f"| {growth.dimension} | distinct 5x5 patches | training step, ms | over {first} | guided step, ms "
        f"| over {first} |",
        "|---|---|---|---|---|---|",
    ]
    for value in growth.cases:
        cells = [value, f"{growth.distinct[value]:.1%}"]
        for part in ("training", "guided"):
            cells += [f"{1000 * median(growth.seconds[part][value]):.4g}", str(growth.ratios[part][value])]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
