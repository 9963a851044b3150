"""The output of `run.py`: a Markdown table and a JSON file."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from scripts.benchmark.cases import Case
from scripts.benchmark.timing import Ratio
from scripts.benchmark.variants import VARIANTS

RATIOS = (("reference", "ours"), ("monai", "ours"), ("ours", "floor"))


@dataclass(frozen=True)
class Row:
    """The result of one part of one case.

    distinct: 5x5 patches by pixels at full size. parameters: by variant. medians: by variant, in `unit`. ratios: by
    "above/below", with quartiles where there were rounds. seconds: by variant, of each round.
    """

    part: str
    unit: str
    case: Case
    distinct: float
    parameters: dict[str, int]
    medians: dict[str, float]
    ratios: dict[str, Ratio]
    seconds: dict[str, list[float]]


def table(rows: Iterable[Row]) -> list[str]:
    """Return the lines of the Markdown table."""
    heads = ["", "size / channels / classes", "batch", *VARIANTS, *(f"{above} / {below}" for above, below in RATIOS)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        values = [f"{row.medians[name]:.4g}" if name in row.medians else "–" for name in VARIANTS]
        ratios = [str(row.ratios.get(f"{above}/{below}", "–")) for above, below in RATIOS]
        cells = [f"{row.part}, {row.unit}", row.case.title, str(row.case.batch), *values, *ratios]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def case_lines(rows: Iterable[Row]) -> list[str]:
    """Return a line for each case: number of weights, properties of the maps."""
    return [
        f"{row.case.title}: {', '.join(f'{name} {count / 1e6:.1f} M' for name, count in row.parameters.items())} "
        f"weights; {row.distinct:.1%} as many distinct 5x5 patches as pixels."
        for row in {row.case: row for row in rows if row.parameters}.values()
    ]


def machine(device: torch.device) -> dict[str, Any]:
    """Return machine, software and date."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "system": platform.platform(),
    }


def cpu_model() -> str:
    """Return the name of the processor, if the system has it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def conditions(facts: dict[str, Any], case: Case) -> list[str]:
    """Return the lines with the conditions of the measurement."""
    masks = "procedural masks" if case.masks is None else f"masks of {case.masks}"
    compiled = ", ours and floor compiled" if case.compiled else ""
    lines = [
        f"{facts['date'][:10]}, {facts['device_name']} ({facts['device']}, {facts['threads']} threads), PyTorch "
        f"{facts['torch']}, {case.precision}{compiled}, {masks}.",
        "Times are medians of interleaved rounds. A ratio is that of the medians; behind it are the quartiles of the "
        "ratios of single rounds.",
    ]
    monai = "MONAI's network is not the same one: other blocks are conditioned, see the script."
    return [*lines, monai if VARIANTS["monai"].load() else "MONAI is not installed (pip install -e .[bench])."]


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows as plain values."""
    return [asdict(row) for row in rows]
