"""The trainings of the generator that made the samples, if they are still on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guided_diffusion.runtime.logs import read_json_lines, read_run_record

_MOST_RUNS = 5  # a chain of finetunings is rarely longer


def runs_behind(config: Mapping[str, Any]) -> dict[Path, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return folder -> (config, epochs) of the trainings behind samples made with `config`, the first one first."""
    runs: dict[Path, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    named = config.get("model_path")
    while isinstance(named, str) and named not in ("", "auto") and len(runs) < _MOST_RUNS:
        folder = Path(named) if Path(named).is_dir() else Path(named).parent
        record = read_run_record(folder)
        if not record or folder in runs:
            break
        runs[folder] = (record, _epochs(folder))
        named = record.get("resume_checkpoint")
    return dict(reversed(runs.items()))


def _epochs(folder: Path) -> list[dict[str, Any]]:
    try:
        lines = read_json_lines(folder / "metrics.jsonl")
    except (OSError, UnicodeDecodeError):
        return []
    return [line for line in lines if isinstance(line, dict) and "epoch" in line and "loss" in line]
