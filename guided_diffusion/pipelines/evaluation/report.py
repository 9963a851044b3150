"""The report of `evaluate`: the record of the data for report.json, and the page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evaluations.metrics import agreement
from evaluations.metrics.base import EvaluationSets, Measurement, sample_captions
from evaluations.report.page import Section, Sheet, join_sections, render_report
from evaluations.report.sections import (
    Record,
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


def describe_data(source: SourceOptions, data: EvaluationData) -> dict[str, Any]:
    """Return the record of what was compared: folders, numbers of images, digests, warnings."""
    sets = data.sets
    splits = {"training": sets.training, "test": sets.test, "samples": sets.samples}
    folder = data.scanned.folder
    return {
        "data_dir": str(Path(source.data_dir).absolute()),
        "synthetic_dir": str(folder.folder),
        "other_dirs": {name: str(other.folder.folder) for name, other in data.others.items()},
        "classes": list(sets.class_names),
        "images": {name: len(split) for name, split in splits.items() if split is not None},
        "digests": {name: split.digest for name, split in splits.items() if split is not None},
        "checkpoint": folder.checkpoint,
        "image_size": list(sets.size),
        "test_in_training": [[t.pair.stem, t.of.stem, t.likeness] for t in data.scanned.shared],
        "warnings": list(data.warnings),
    }


def report_page(
    record: Mapping[str, Any], sets: EvaluationSets, measured: Sequence[Measurement], sampling: Record, shown: int
) -> str:
    """Return the page: the verdict first, then what it rests on.

    sampling: the configuration that the samples were made with. shown: number of samples in the first pictures.
    """
    study, data, versions = record["study"], record["data"], record["versions"]
    scores = {name: values for each in measured for name, values in each.sample_scores.items()}
    examples = np.array(visualize.evenly_spaced(range(len(sets.samples)), shown))
    sections = [
        *([] if study is None else [study_section(study)]),
        examples_section(sets.triples(examples), sample_captions(scores, examples)),
        *(each.section for each in measured),
        *([filtered_section(record["filtered"])] if "filtered" in record else []),
        generator_section(sampling, runs_behind(sampling)),
        settings_section(record["options"], data, versions),
    ]
    return render_report(
        title=report_title(data),
        verdict=study_verdict(study, "study is false" if sets.has_masks else "the dataset has boxes and no masks"),
        facts=[*data_facts(data), *(fact for each in measured for fact in each.facts)],
        warnings=[*(study["warnings"] if study else []), *data["warnings"], *warnings_of(measured)],
        sections=join_sections(sections),
        footer=f"isdm {versions['isdm']}, torch {versions['torch']}; report.json has all numbers",
        draw=partial(draw_sheet, class_names=sets.class_names),
    )


def filtered_section(filtered: Record) -> Section:
    """Return the section on the copy of the samples that reach a threshold."""
    copied = "{kept} samples of at least {threshold:g} were copied to {folder}.".format_map(filtered)
    return Section(agreement.HEADING, [copied])


def warnings_of(measured: Sequence[Measurement]) -> list[str]:
    """Return the warnings of all metrics."""
    return [line for each in measured for line in each.warnings]


def draw_sheet(sheet: Sheet, class_names: Sequence[str]) -> bytes:
    """Return a sheet as a PNG file, its label maps in the colors of their classes, with a legend."""
    palette = visualize.class_palette(len(class_names))
    rows = [[visualize.colorize(tile, palette) if tile.ndim == 2 else tile for tile in row] for row in sheet.rows]
    legend = visualize.legend_of(class_names, sheet.labels)
    picture = visualize.grid(rows, column_titles=sheet.column_titles, legend=legend)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
