"""What `benchmark.py` finds out about this project's network alone: growth of its steps, and when lookup pays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from statistics import median

import torch
from benchmark_cases import Case, distinct_share, make_batch
from benchmark_measure import Ratio, interleaved, ratio
from benchmark_variants import Ours, Step, guided_steps, training_step

from guided_diffusion.models.conditioning import DENSE_ABOVE

CLASSES = (2, 6, 19, 60, 151, 182)
SIZES = (32, 64, 128, 256)
BATCHES = (1, 2, 4, 8, 16)
OBJECTS = 4
"""Objects of a mask while classes grow: the same shapes for any number."""
NOISE = (0.0, 0.003, 0.01, 0.02, 0.04, 0.07, 0.1, 0.14, 0.2, 0.3, 1.0)
"""Shares of pixels that are replaced; each is in 25 neighbourhoods."""

Done = Callable[[Case, str], None]


@dataclass(frozen=True)
class Growth:
    """Times of ours over one dimension.

    distinct: value -> neighbourhoods by pixels at full size. seconds: part -> value -> the seconds of each round.
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


@dataclass(frozen=True)
class LookupShare:
    """Lookup against dense form on maps of one noisiness.

    noise: share of pixels that were replaced. distinct: neighbourhoods by pixels at full size. training, modulate:
    time of the lookup form over that of the dense form, of a training step and of making the modulations.
    """

    noise: float
    distinct: float
    training: Ratio
    modulate: Ratio


def measure_threshold(case: Case, rounds: int, done: Done) -> Iterator[LookupShare]:
    """Yield lookup over dense for maps of growing noisiness.

    Neighbourhoods are counted before: whoever has to choose has counted them already.
    """
    variant = Ours(case)
    network = variant.network
    for noise in NOISE:
        network.spade = "lookup"  # or nothing would be counted
        batch = make_batch(replace(case, noise=noise))
        batch = replace(batch, condition=variant.counted(batch.condition))
        maps = batch.condition.to(case.device)
        modulate = torch.no_grad()(partial(network.modulate, maps))
        ratios = {}
        for part, step in (("training", training_step(variant, batch)), ("modulate", modulate)):
            steps = {form: _in_form(variant, form, step) for form in ("lookup", "dense")}
            seconds = interleaved(steps, rounds, case.device, lambda form, part=part: done(case, part))
            ratios[part] = ratio(seconds["lookup"], seconds["dense"])
        yield LookupShare(noise, distinct_share(replace(case, noise=noise)), **ratios)


def _in_form(variant: Ours, form: str, step: Step) -> Step:
    def run() -> None:
        variant.network.spade = form
        step()

    return run


def crossing(shares: Sequence[LookupShare], part: str) -> float | None:
    """Return the share of distinct neighbourhoods at which lookup takes as long as dense, None if it never does."""
    for before, after in pairwise(shares):
        low, high = (getattr(share, part).value for share in (before, after))
        if low <= 1 < high:
            return before.distinct + (1 - low) / (high - low) * (after.distinct - before.distinct)
    return None


def threshold_lines(case: Case, shares: Sequence[LookupShare]) -> list[str]:
    """Return the Markdown table of a threshold study and what follows from it."""
    lines = [
        f"Lookup over dense, {case.title} classes, batch {case.batch}:",
        "",
        "| pixels replaced | distinct neighbourhoods by pixels | training step | modulate |",
        "|---|---|---|---|",
    ]
    lines += [f"| {s.noise:.1%} | {s.distinct:.1%} | {s.training} | {s.modulate} |" for s in shares]
    for part in ("training", "modulate"):
        found = crossing(shares, part)
        where = "at no share measured" if found is None else f"at {found:.1%} distinct neighbourhoods"
        lines += ["", f"The two are equally fast ({part}) {where}; `auto` changes at {DENSE_ABOVE:.0%}."]
    return lines


def growth_lines(growth: Growth) -> list[str]:
    """Return the Markdown table of a growth study."""
    first = next(iter(growth.cases))
    lines = [
        f"| {growth.dimension} | distinct neighbourhoods | training step, ms | over {first} | guided step, ms "
        f"| over {first} |",
        "|---|---|---|---|---|---|",
    ]
    for value in growth.cases:
        cells = [value, f"{growth.distinct[value]:.1%}"]
        for part in ("training", "guided"):
            cells += [f"{1000 * median(growth.seconds[part][value]):.4g}", str(growth.ratios[part][value])]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
