"""One evaluation from start to end: check, train, measure, report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from evaluations.errors import EvaluationError
from evaluations.metrics.agreement import Agreement
from guided_diffusion.config.evaluate import EvaluateConfig
from guided_diffusion.pipelines.evaluation.data import EvaluationData, load_data, scan_data
from guided_diffusion.pipelines.evaluation.metrics import (
    Measured,
    MetricContext,
    agreement_of,
    make_metrics,
    measure,
    notes_of,
)
from guided_diffusion.pipelines.evaluation.options import resolve_options
from guided_diffusion.pipelines.evaluation.report import (
    Filtered,
    describe_data,
    findings_of,
    report_page,
    warnings_of,
)
from guided_diffusion.pipelines.evaluation.segmenter import read_external
from guided_diffusion.pipelines.evaluation.study import prepare_study
from guided_diffusion.pipelines.output import (
    ReadFolder,
    dataset_folders,
    output_of,
    refuse_other_record,
    refuse_written_sources,
    sample_folders,
)
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.errors import UserError
from guided_diffusion.runtime.files import make_folder, write_text
from guided_diffusion.runtime.logs import library_versions, write_run_record
from guided_diffusion.samples.reader import SampleFolder, find_samples, refuse_target, write_selection

REPORT, RECORD, FILTERED = "report.html", "report.json", "filtered"
METRIC_LIBRARIES = ("segmentation-models-pytorch", "timm", "torch-fidelity", "lpips", "scipy")


def evaluate(config: EvaluateConfig, world: ProcessGroup) -> None:
    """Check everything that can be checked, train and measure, then write the report."""
    try:
        _evaluate(config, world)
    except EvaluationError as error:
        raise UserError(str(error)) from error


def _evaluate(config: EvaluateConfig, world: ProcessGroup) -> None:
    folder, threshold = Path(config.output_dir), config.quality.filter_below
    refuse_other_record("output_dir", folder, "evaluate")
    samples = find_samples(config.synthetic_dir)
    filtered_folder = Path(config.quality.filtered_dir) if config.quality.filtered_dir else folder / FILTERED
    if threshold is not None:
        refuse_target(samples, filtered_folder)
    config = resolve_options(config, samples)
    written = {"output_dir": [folder]}
    if threshold is not None:
        written["filtered_dir"] = [filtered_folder, filtered_folder / samples.split]
    refuse_written_sources(written, [*dataset_folders(config.source), *_folders_of_samples(config, samples)])
    with output_of("evaluate", [paths[0] for paths in written.values()], world):
        _evaluate_into(folder, config, samples, filtered_folder, world.device)


def _folders_of_samples(config: EvaluateConfig, samples: SampleFolder) -> list[ReadFolder]:
    found = sample_folders("synthetic_dir", config.synthetic_dir, samples.folder)
    diversity = config.quality.diversity_dir
    return found + (sample_folders("diversity_dir", diversity, find_samples(diversity).folder) if diversity else [])


def _evaluate_into(
    folder: Path, config: EvaluateConfig, samples: SampleFolder, filtered_folder: Path, device: torch.device
) -> None:
    """Train, measure and write the report into `folder`, and samples above the threshold into `filtered_folder`."""
    threshold = config.quality.filter_below
    quality, seed = config.quality, config.study.seed
    external = read_external(config.segmenter, config.view, device)
    scanned = scan_data(config, samples)
    names = scanned.view.encoding.names
    segmenter = external and external.for_classes(names, batch_size=config.study.batch_size, device=device)
    metrics = make_metrics(MetricContext(quality, seed, device))
    data = load_data(scanned, compared_with_test=quality.compare_with == "test")
    study = prepare_study(config, data, folder, device)
    make_folder(folder)
    if study is not None:
        study.results.begin()
    write_run_record(folder, "evaluate", config.to_json())
    _announce(data, notes_of(metrics))
    if study is not None:
        study.train()
        segmenter = study.segmenter() if study.study.with_agreement else segmenter
    sets = data.sets(segmenter)
    measured = measure(metrics, sets)
    record = {
        "data": describe_data(config.source, data),
        "study": None if study is None else study.summary(names),
        **{each.metric.key: each.measurement.record for each in measured},
        "options": config.to_json(),
        "versions": library_versions() | library_versions(METRIC_LIBRARIES),
    }
    filtered = None
    if threshold is not None:
        filtered = write_filtered(data, agreement_of(measured), threshold, filtered_folder)
        record["filtered"] = filtered.to_json()
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
    write_text(folder / REPORT, report_page(record, data, sets, measured, filtered, quality.report_images))
    _finish(record["study"], measured, filtered, len(data.samples), folder)


def write_filtered(data: EvaluationData, agreement: Agreement, threshold: float, target: Path) -> Filtered:
    """Copy the samples whose agreement is at least `threshold`, each with its agreement in the manifest."""
    scanned = data.scanned
    kept = [index for index, low in enumerate(agreement.below(threshold)) if not low]
    notes = [{"agreement": round(float(agreement.score[index]), 4)} for index in kept]
    pairs = [scanned.samples[index] for index in kept]
    folder = write_selection(scanned.folder, pairs, scanned.view.encoding, target, notes)
    return Filtered(str(folder), threshold, len(kept))


def _announce(data: EvaluationData, notes: Sequence[str]) -> None:
    height, width = data.scanned.view.size
    training = "" if data.training is None else f"{len(data.training)} training and "
    counts = f"{training}{len(data.test)} test images"
    folder = data.scanned.folder.folder
    print(f"{counts}, {len(data.samples)} samples of {folder}, all at {width}x{height} pixels")
    for line in (*data.warnings, *notes):
        print(f"warning: {line}")


def _finish(
    study: Mapping[str, Any] | None,
    measured: Sequence[Measured],
    filtered: Filtered | None,
    samples: int,
    folder: Path,
) -> None:
    if study is not None:
        print(f"\n{study['headline']}")
        for entry in study["architectures"].values():
            for line in (entry.get("verdict"), entry.get("rivals")):
                if line:
                    print(f"  {line['line']}")
    for line in findings_of(measured):
        print(line)
    for line in [*(study["warnings"] if study else []), *warnings_of(measured)]:
        print(f"warning: {line}")
    if filtered is not None:
        print(f"{filtered.kept} of {samples} samples copied to {filtered.folder}")
    for name in (REPORT, RECORD):
        print(f"  {(folder / name).absolute()}")
