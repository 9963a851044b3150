"""The report of `evaluate`: what was found, put together in report.json and in the page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evaluations.metrics.agreement import filtered_section
from evaluations.metrics.base import EvaluationSets, Fact, sample_captions
from evaluations.report.page import Sheet, join_sections, render_report
from evaluations.report.sections import (
    data_facts,
    examples_section,
    generator_section,
    report_title,
    settings_section,
    study_section,
    study_verdict,
)
from guided_diffusion.data import visualize
from guided_diffusion.data.options import SourceOptions
from guided_diffusion.pipelines.evaluation.data import EvaluationData
from guided_diffusion.pipelines.evaluation.generator import runs_behind
from guided_diffusion.pipelines.evaluation.metrics import Measured


@dataclass(frozen=True)
class Filtered:
    """A copy of the samples whose agreement reaches a threshold."""

    folder: str
    threshold: float
    kept: int

    def to_json(self) -> dict[str, Any]:
        """Return its entry in report.json."""
        return {"folder": self.folder, "threshold": self.threshold, "kept": self.kept}


def describe_data(source: SourceOptions, data: EvaluationData) -> dict[str, Any]:
    """Return what was compared, for the record: where it lies, how much there is of it, digests, warnings."""
    splits = {"training": data.training, "test": data.test, "samples": data.samples}
    folder = data.scanned.folder
    return {
        "data_dir": str(Path(source.data_dir).absolute()),
        "synthetic_dir": str(folder.folder),
        "classes": list(data.class_names),
        "images": {name: len(split) for name, split in splits.items() if split is not None},
        "digests": {name: split.digest for name, split in splits.items() if split is not None},
        "checkpoint": folder.checkpoint,
        "image_size": list(data.scanned.view.size),
        "test_in_training": [[t.pair.stem, t.of.stem, t.likeness] for t in data.scanned.shared],
        "warnings": list(data.warnings),
    }


def report_page(
    record: Mapping[str, Any],
    data: EvaluationData,
    sets: EvaluationSets,
    measured: Sequence[Measured],
    filtered: Filtered | None,
    shown: int,
) -> str:
    """Return the page: the verdict first, then what it rests on; `shown` samples are in its first pictures."""
    study, sampling = record["study"], data.scanned.folder.config
    scores = {name: values for each in measured for name, values in each.measurement.sample_scores.items()}
    examples = np.array(visualize.evenly_spaced(range(len(data.samples)), shown))
    sections = [
        *([] if study is None else [study_section(study)]),
        examples_section(sets.triples(examples), sample_captions(scores, examples)),
        *(each.section for each in measured),
        *([] if filtered is None else [filtered_section(filtered.kept, filtered.threshold, filtered.folder)]),
        generator_section(sampling, runs_behind(sampling)),
        settings_section(record["options"], record["data"], record["versions"]),
    ]
    facts: list[Fact] = sorted(
        (fact for each in measured for fact in each.measurement.facts), key=lambda fact: fact.rank
    )
    versions = record["versions"]
    return render_report(
        title=report_title(record["data"]),
        verdict=study_verdict(study),
        facts=[*data_facts(record["data"]), *((fact.name, fact.value) for fact in facts)],
        warnings=[*(study["warnings"] if study else []), *data.warnings, *warnings_of(measured)],
        sections=join_sections(sections),
        footer=f"isdm {versions['isdm']}, torch {versions['torch']}; report.json has all numbers",
        draw=partial(draw_sheet, class_names=data.class_names),
    )


def findings_of(measured: Sequence[Measured]) -> list[str]:
    """Return the findings of all metrics."""
    return [line for each in measured for line in each.measurement.findings]


def warnings_of(measured: Sequence[Measured]) -> list[str]:
    """Return the warnings of all metrics."""
    return [line for each in measured for line in each.measurement.warnings]


def draw_sheet(sheet: Sheet, class_names: Sequence[str]) -> bytes:
    """Return a sheet as a PNG file, its label maps in the colors of their classes, with a legend."""
    palette = visualize.class_palette(len(class_names))
    rows = [[visualize.colorize(tile, palette) if tile.ndim == 2 else tile for tile in row] for row in sheet.rows]
    legend = visualize.legend_of(class_names, sheet.labels)
    picture = visualize.grid(rows, column_titles=sheet.column_titles, legend=legend)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
