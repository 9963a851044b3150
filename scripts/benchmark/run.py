"""Compare the cost of training and sampling with the published code, with MONAI, and with no condition.

    python -m scripts.benchmark.run [--quick] [--sizes 64:32:6 ...] [--masks FOLDER] [--growth] [--threshold]
        [--label-diffusion] [--latent] [--layout]

One Markdown table goes to stdout and everything measured to a JSON file. The variants:

- reference: the path of the published code (`published_unet.py`) with the weights of ours: dense SPADE, guidance by two
  full passes, contiguous memory, a one-hot map made in each training step, AdamW and moving average as written there.
- monai: MONAI's SPADEDiffusionModelUNet, where installed (`pip install -e .[bench]`), trained and sampled from like the
  reference. It is not the same network: its middle block and its upsampling blocks are not conditioned, its time
  embedding only shifts, its normalizations have weights of their own.
- ours: this project's network and steps with their defaults. On a CPU the patches of the maps are counted within
  the training step, as training does it there; for a GPU loading processes count them.
- floor: our network without a condition (`condition` none), its encoder run once and its decoder twice: the cost
  without any condition.

A training step is the loss (v, learned variance), its gradient, clipping, AdamW and one moving average. A guided
sampling step is the guided output at s = 1.5; what all steps of a sample share (one-hot maps, tables) is made before,
and a note says what the tables cost. Every round runs each variant once, in an order that rotates. On a CPU under Linux
all variants have an allocator that keeps freed memory (`keep_freed_memory`), the reference too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from guided_diffusion.models.architecture import architecture_problems
from guided_diffusion.runtime.distributed import choose_device
from guided_diffusion.runtime.errors import UserError
from guided_diffusion.runtime.memory import keep_freed_memory
from scripts.benchmark.cases import Case, default_batch, distinct_share, label_maps, make_batch
from scripts.benchmark.forms import (
    FORMS,
    NOISE,
    STEPS,
    label_diffusion_lines,
    measure_label_diffusion,
    measure_threshold,
    threshold_lines,
)
from scripts.benchmark.growth import growth_cases, growth_lines, measure_growth
from scripts.benchmark.latent import LATENT_SIZES, latent_cases, latent_lines, measure_latent
from scripts.benchmark.layout import layout_lines, measure_layout
from scripts.benchmark.tables import RATIOS, Row, as_json, case_lines, conditions, machine, table
from scripts.benchmark.timing import (
    START_SECONDS,
    Progress,
    Ratio,
    interleaved,
    peak_training_memory,
    ratio,
    warm_up_runs,
)
from scripts.benchmark.variants import VARIANTS, Ours, Variant, available, guided_steps, network_options, training_step

SIZES = ("64:32:6", "128:64:6", "256:128:6", "256:256:151")
PARTS = ("training", "guided", "memory")
FIRST = "ours, first step"
COST = {"training": 3.5, "guided": 2.0}
"""Forward passes that a step is worth, for progress bars only."""


class Benchmark:
    """Measures cases and reports progress.

    rows: the results. notes: remarks on them.
    """

    def __init__(self, rounds: int | None, progress: Progress):
        self.rounds = rounds
        self.progress = progress
        self.rows: list[Row] = []
        self.notes: list[str] = []

    def measure(self, case: Case, parts: Sequence[str]) -> None:
        """Measure `parts` of `case`."""
        for part, measured in (("training", self._training), ("guided", self._guided)):
            if part in parts:
                self.progress.now(f"{case.title}, {part}")
                measured(case, [VARIANTS[name](case) for name in available()])
        if "memory" in parts:
            self._memory(case)

    def _training(self, case: Case, variants: Sequence[Variant]) -> None:
        batch = make_batch(case)
        steps = {variant.name: training_step(variant, batch) for variant in variants}
        self._add_times("training step", case, variants, self._interleaved("training", case, steps))

    @torch.inference_mode()
    def _guided(self, case: Case, variants: Sequence[Variant]) -> None:
        batch = make_batch(case)
        steps = guided_steps(variants, batch)
        reference, found = steps["reference"](), steps["ours"]()
        difference = float((found - reference).abs().max() / reference.abs().max())
        ours = next(variant for variant in variants if isinstance(variant, Ours))
        seconds = self._interleaved("guided", case, {**steps, FIRST: ours.first_guided_step(batch)})
        self._add_times("guided step", case, variants, seconds)
        shared = ratio(seconds[FIRST], seconds["ours"]).value - 1
        self.notes.append(
            f"{case.title}: the tables that all steps of a batch share cost {shared:.2f} guided steps; the guided "
            f"outputs of ours and reference differ by {difference:.0e} of the largest value."
        )

    def _memory(self, case: Case) -> None:
        peaks = {}
        for name in available():
            self.progress.now(f"{case.title}, memory, {name}")
            try:
                peaks[name] = peak_training_memory(case, name)
            except ChildProcessError as error:
                tqdm.write(f"memory was not measured: {error}", file=sys.stderr)
            self.progress.done(memory_seconds(case))
        ratios = {
            f"{above}/{below}": Ratio(peaks[above] / peaks[below])
            for above, below in RATIOS
            if {above, below} <= peaks.keys()
        }
        self.rows.append(Row("training memory", "GiB", case, distinct_share(case), {}, peaks, ratios, {}))

    def _interleaved(self, part: str, case: Case, steps: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
        seconds = COST[part] * case.forward_seconds
        return interleaved(steps, rounds_of(case, self.rounds), case.device, lambda name: self.progress.done(seconds))

    def _add_times(self, part: str, case: Case, variants: Sequence[Variant], seconds: dict[str, list[float]]) -> None:
        parameters = {variant.name: variant.parameters for variant in variants}
        medians = {name: 1000 * median(times) for name, times in seconds.items()}
        ratios = {
            f"{above}/{below}": ratio(seconds[above], seconds[below])
            for above, below in RATIOS
            if {above, below} <= seconds.keys()
        }
        self.rows.append(Row(part, "ms", case, distinct_share(case), parameters, medians, ratios, seconds))


def rounds_of(case: Case, asked: int | None) -> int:
    """Return the rounds of a case: as asked, or fewer the longer they take."""
    if asked is not None:
        return asked
    if torch.device(case.device).type != "cpu":
        return 30
    return 15 if case.forward_seconds < 3 else 5


def parts_of(case: Case, asked: Sequence[str] | None) -> Sequence[str]:
    """Return what to measure of a case: as asked, or on a CPU no training of the largest."""
    if asked is not None:
        return asked
    return ("guided",) if case.device == "cpu" and case.size >= 256 else PARTS


def case_seconds(case: Case, parts: Sequence[str], rounds: int) -> float:
    """Return a guess of how long a case takes."""
    runs = rounds + warm_up_runs(case.device)
    seconds = {
        "training": len(available()) * runs * COST["training"] * case.forward_seconds,
        "guided": (len(available()) + 1) * runs * COST["guided"] * case.forward_seconds,
        "memory": len(available()) * memory_seconds(case),
    }
    return sum(seconds[part] for part in parts)


def memory_seconds(case: Case) -> float:
    """Return a guess of how long a process takes that measures memory."""
    return START_SECONDS + 3 * COST["training"] * case.forward_seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON file."""
    options, cases = parse(arguments)
    if torch.device(options.device).type == "cpu":
        keep_freed_memory()
    report: dict[str, Any] = {"options": vars(options), "machine": machine(torch.device(options.device))}
    for line in measure_cases(options, cases, report):
        print(line)
    if options.growth:
        print(*measure_all_growth(options, cases[0], report), sep="\n")
    if options.threshold:
        print(*measure_forms(options, cases[0], report), sep="\n")
    if options.label_diffusion:
        print(*measure_labels(options, cases[0], report), sep="\n")
    if options.latent:
        print(*measure_latents(options, report), sep="\n")
    if options.layout:
        print(*measure_layouts(options, cases[0], report), sep="\n")
    path = Path(options.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"\n{path.resolve()}")


def measure_cases(options: argparse.Namespace, cases: Sequence[Case], report: dict[str, Any]) -> list[str]:
    """Measure the comparison into `report`; return its table and notes."""
    todo = [(case, parts_of(case, options.parts)) for case in cases]
    with Progress(sum(case_seconds(case, parts, rounds_of(case, options.rounds)) for case, parts in todo)) as progress:
        benchmark = Benchmark(options.rounds, progress)
        for case, parts in todo:
            benchmark.measure(case, parts)
    report["results"] = as_json(benchmark.rows)
    report["notes"] = benchmark.notes + case_lines(benchmark.rows)
    lines = table(benchmark.rows)
    for note in conditions(report["machine"], cases[0]) + report["notes"]:
        lines += ["", note]
    return lines


def measure_all_growth(options: argparse.Namespace, base: Case, report: dict[str, Any]) -> list[str]:
    """Measure how steps scale with classes, image size and batch into `report`; return the tables."""
    todo, lines, report["growth"] = growth_cases(base), [], []
    rounds = options.rounds or rounds_of(base, None)
    runs = rounds + warm_up_runs(base.device)
    every = [case for cases in todo.values() for case in cases.values()]
    with Progress(sum(runs * (COST["training"] + COST["guided"]) * case.forward_seconds for case in every)) as progress:
        for dimension, cases in todo.items():
            progress.now(f"growth over {dimension}")
            growth = measure_growth(
                dimension, cases, rounds, lambda case, part: progress.done(COST[part] * case.forward_seconds)
            )
            report["growth"].append(asdict(growth))
            lines += ["", *growth_lines(growth)]
    return lines


def measure_forms(options: argparse.Namespace, case: Case, report: dict[str, Any]) -> list[str]:
    """Measure the forms of modulations on more and more noisy maps into `report`; return the table."""
    rounds = rounds_of(case, options.rounds)
    seconds = (COST["training"] + COST["guided"]) * case.forward_seconds
    with Progress(len(FORMS) * len(NOISE) * (rounds + warm_up_runs(case.device)) * seconds) as progress:
        progress.now(f"{case.title}, forms")
        shares = list(
            measure_threshold(case, rounds, lambda case, part: progress.done(COST[part] * case.forward_seconds))
        )
    report["threshold"] = {"case": asdict(case), "shares": [asdict(share) for share in shares]}
    return ["", *threshold_lines(case, shares)]


def measure_labels(options: argparse.Namespace, case: Case, report: dict[str, Any]) -> list[str]:
    """Measure what label diffusion adds to a step into `report`; return the table."""
    rounds = rounds_of(case, options.rounds)
    cost = {"training": COST["training"], "guided": STEPS * COST["guided"]}
    runs = (rounds + warm_up_runs(case.device)) * (len(FORMS) + 3)
    with Progress(runs * sum(cost.values()) * case.forward_seconds) as progress:
        progress.now(f"{case.title}, label diffusion")
        found = measure_label_diffusion(
            case, rounds, lambda case, part: progress.done(cost[part] * case.forward_seconds)
        )
    report["label_diffusion"] = {
        "case": asdict(case),
        "ratios": {part: {name: asdict(value) for name, value in row.items()} for part, row in found.items()},
    }
    return ["", *label_diffusion_lines(case, found)]


def measure_latents(options: argparse.Namespace, report: dict[str, Any]) -> list[str]:
    """Measure training of latents beside that of pixels into `report`; return the table."""
    cases = latent_cases([_case(text, 1, options) for text in options.latent])
    rounds = options.rounds or (3 if torch.device(options.device).type == "cpu" else 20)
    runs = rounds + warm_up_runs(options.device) + 3
    with Progress(sum(2 * runs * COST["training"] * case.forward_seconds for case in cases)) as progress:
        rows = []
        for case in cases:
            progress.now(f"{case.title}, latents")
            rows.append(measure_latent(case, rounds, lambda s: progress.done(s * COST["training"])))
    report["latent"] = [asdict(row) for row in rows]
    return ["", *latent_lines(rows)]


def measure_layouts(options: argparse.Namespace, case: Case, report: dict[str, Any]) -> list[str]:
    """Measure networks of boxes beside that without a condition into `report`; return the tables."""
    rounds = rounds_of(case, options.rounds)
    seconds = COST["guided"] * case.forward_seconds
    with Progress(3 * (rounds + warm_up_runs(case.device)) * seconds) as progress:
        progress.now(f"{case.title}, boxes")
        row = measure_layout(case, rounds, lambda name: progress.done(seconds))
    report["layout"] = asdict(row)
    return ["", *layout_lines(row)]


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[Case]]:
    """Return the options and their cases; exits with an error for invalid ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small size, few rounds: under a minute")
    parser.add_argument("--sizes", nargs="+", metavar="SIZE:CHANNELS:CLASSES", help=f"default: {' '.join(SIZES)}")
    parser.add_argument("--batch", nargs="+", type=positive, help="one for all sizes or one each; 16, 8, 4, 1 by size")
    parser.add_argument("--parts", nargs="*", choices=PARTS, help="default: all; on a CPU from 256 px on guided alone")
    parser.add_argument("--masks", metavar="FOLDER", help="label PNGs in place of procedural masks")
    parser.add_argument("--rounds", type=positive, help="default: 15 on a CPU, 5 of long ones; 30 on a GPU")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of all variants")
    parser.add_argument("--compile", action="store_true", help="torch.compile ours and floor")
    parser.add_argument("--growth", action="store_true", help="also: step times over classes, image size and batch")
    parser.add_argument("--threshold", action="store_true", help="also: the forms of modulations, the first size")
    parser.add_argument("--label-diffusion", action="store_true", help="also: what it costs, the first size")
    parser.add_argument(
        "--latent", nargs="*", metavar="SIZE:CHANNELS:CLASSES", help=f"also: latents; default {' '.join(LATENT_SIZES)}"
    )
    parser.add_argument("--layout", action="store_true", help="also: networks of boxes, the first size")
    parser.add_argument("--json", metavar="FILE", help="default: runs/benchmark-<date>-<time>.json")
    options = parser.parse_args(arguments)
    if options.quick:
        options.sizes, options.batch = options.sizes or SIZES[:1], options.batch or [4]
        options.rounds = options.rounds or 5
    if options.latent == []:
        options.latent = list(LATENT_SIZES)
    options.json = options.json or f"runs/benchmark-{datetime.now():%Y%m%d-%H%M%S}.json"
    try:
        options.device = str(choose_device(options.device))
        return options, cases_of(options)
    except (UserError, ValueError, OSError) as error:
        parser.error(str(error))


def cases_of(options: argparse.Namespace) -> list[Case]:
    """Return the cases, checked.

    Raises ValueError for a size, a number of batches or a mask that cannot be used.
    """
    sizes = options.sizes or SIZES
    batches = options.batch or [None]
    if len(batches) not in (1, len(sizes)):
        raise ValueError(f"--batch: has {len(batches)} numbers for {len(sizes)} sizes: give one, or one each")
    batches = batches * len(sizes) if len(batches) == 1 else batches
    cases = [_case(size, batch, options) for size, batch in zip(sizes, batches, strict=True)]
    for case in cases:
        label_maps(case)
    return cases


def _case(text: str, batch: int | None, options: argparse.Namespace) -> Case:
    try:
        size, channels, classes = map(positive, text.split(":"))
    except ValueError:
        raise ValueError(f"--sizes: {text!r} is not SIZE:CHANNELS:CLASSES, for example 64:32:6") from None
    case = Case(
        size,
        channels,
        classes,
        batch or default_batch(size, channels),
        device=options.device,
        precision=options.precision,
        compiled=options.compile,
        masks=options.masks,
    )
    problems = architecture_problems(network_options(case), case.size)
    if problems:
        raise ValueError(f"--sizes {text}: {problems[0][1]}")
    return case


def positive(text: str) -> int:
    """Return a number above 0; raises ValueError for anything else."""
    number = int(text)
    if number <= 0:
        raise ValueError(f"{text} is not above 0")
    return number


if __name__ == "__main__":
    main()
