"""What the report of `evaluate` shows of the generator's training: the runs behind the samples, if they remain."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluations.report.charts import loss_curve
from evaluations.report.page import Figure, Section
from guided_diffusion.runtime.logs import read_json_lines, read_run_record
from guided_diffusion.samples.reader import SampleFolder

_MOST_RUNS = 5  # a chain of finetunings is rarely longer


def training_sections(samples: SampleFolder) -> list[Section]:
    """Return a section with the loss curves and configurations of the runs that led to the samples."""
    runs = _runs_behind(samples.config)
    sample = [("config of sample", json.dumps(samples.config, indent=2))] if samples.config else []
    if not runs:
        text = (
            "The runs that the samples are from were not found: there is no config.json of sample beside them, or the "
            "folders that it names are elsewhere."
        )
        return [Section("How the samples were made", [text], details=sample)]
    history = {folder.as_posix(): epochs for folder, (_, epochs) in runs.items() if epochs}
    figures = []
    if history:
        chart = loss_curve(history)
        figures.append(Figure("Training loss", chart.light_svg, chart.dark_svg))
    details = [(f"config of {folder}", json.dumps(config, indent=2)) for folder, (config, _) in runs.items()]
    text = ["Mean training loss of each epoch. It tells whether training went on falling, not how good samples are."]
    return [Section("How the samples were made", text, figures=figures, details=[*sample, *details])]


def _runs_behind(config: Mapping[str, Any]) -> dict[Path, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return folder -> (config, epochs), the first training first."""
    runs: dict[Path, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    named = config.get("model_path")
    while isinstance(named, str) and named not in ("", "auto") and len(runs) < _MOST_RUNS:
        folder = Path(named) if Path(named).is_dir() else Path(named).parent
        known = read_run_record(folder)
        if not known or folder in runs:
            break
        runs[folder] = (known, _epochs(folder))
        named = known.get("resume_checkpoint")
    return dict(reversed(runs.items()))


def _epochs(folder: Path) -> list[dict[str, Any]]:
    try:
        lines = read_json_lines(folder / "metrics.jsonl")
    except (OSError, UnicodeDecodeError):
        return []
    return [line for line in lines if isinstance(line, dict) and "epoch" in line and "loss" in line]
