"""One evaluation from start to end: check, train, measure, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evaluations.errors import EvaluationError
from guided_diffusion.config.evaluate import EvaluateConfig
from guided_diffusion.pipelines.evaluation.data import EvaluationData, load_data, resolve_options, scan_data
from guided_diffusion.pipelines.evaluation.judge import given_judge, read_given, trained_judge
from guided_diffusion.pipelines.evaluation.quality import Quality, load_networks, measure_quality
from guided_diffusion.pipelines.evaluation.report import report_page
from guided_diffusion.pipelines.evaluation.study import prepare_study, summarise, train_models
from guided_diffusion.runtime.distributed import World
from guided_diffusion.runtime.errors import UserError
from guided_diffusion.runtime.files import make_folder, write_text
from guided_diffusion.runtime.logs import library_versions, read_run_record, write_run_record
from guided_diffusion.samples.reader import find_samples, refuse_target, write_selection

REPORT, RECORD, FILTERED = "report.html", "report.json", "filtered"
METRIC_LIBRARIES = ("segmentation-models-pytorch", "timm", "torch-fidelity", "lpips", "scipy")


def evaluate(config: EvaluateConfig, world: World) -> None:
    """Check everything that can be checked, train and measure, then write the report."""
    try:
        _evaluate(config, world)
    except EvaluationError as error:
        raise UserError(str(error)) from error


def _evaluate(config: EvaluateConfig, world: World) -> None:
    folder = Path(config.output_dir)
    refuse_other_output(folder)
    samples = find_samples(config.synthetic_dir)
    filtered = Path(config.quality.filtered_dir) if config.quality.filtered_dir else folder / FILTERED
    if config.quality.filter_below is not None:
        refuse_target(samples, filtered)
    options = resolve_options(config, samples)
    given = read_given(options, world.device)
    scanned = scan_data(options, samples)
    judge = given and given_judge(given, scanned.encoding.names, config.study.batch_size, world.device)
    networks = load_networks(options, world.device)
    data = load_data(scanned)
    study = prepare_study(data, folder, world.device)
    make_folder(folder)
    if study is not None:
        study.results.begin()
    write_run_record(folder, "evaluate", data.options)
    _announce(data, networks.notes)
    if study is not None:
        train_models(study)
        judge = trained_judge(study) if study.with_agreement else judge
    quality = measure_quality(data, judge, networks, world.device)
    record = {
        "data": describe(data),
        "study": summarise(study, data.encoding.names) if config.study.study else None,
        **quality.record,
        "options": data.options,
        "versions": library_versions() | library_versions(METRIC_LIBRARIES),
    }
    if config.quality.filter_below is not None:
        record["filtered"] = write_filtered(data, quality, config.quality.filter_below, filtered)
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
    write_text(folder / REPORT, report_page(record, data, quality))
    _finish(record, quality, folder)


def refuse_other_output(folder: Path) -> None:
    """Raise UserError where `folder` holds what another action wrote, whose records would be overwritten."""
    action = read_run_record(folder, "environment.json").get("action", "evaluate")
    if action != "evaluate":
        raise UserError(f"output_dir is {folder}, which holds the results of {action}: choose another folder")


def describe(data: EvaluationData) -> dict[str, Any]:
    """Return what was compared, for the record: where it lies, how much there is of it, digests, warnings."""
    splits = {"training": data.training, "test": data.test, "samples": data.synthetic}
    return {
        "data_dir": str(Path(data.options["data_dir"]).absolute()),
        "synthetic_dir": str(data.samples.folder),
        "classes": list(data.encoding.names),
        "images": {name: len(split.pairs) for name, split in splits.items() if split is not None},
        "digests": {name: split.digest for name, split in splits.items() if split is not None},
        "checkpoint": data.samples.checkpoint,
        "image_size": list(data.size),
        "warnings": list(data.warnings),
    }


def write_filtered(data: EvaluationData, quality: Quality, threshold: float, target: Path) -> dict[str, Any]:
    """Copy the samples whose agreement is at least `threshold`; return what the record says of the copy."""
    assert quality.agreement is not None
    kept = [index for index, low in enumerate(quality.agreement.below(threshold)) if not low]
    notes = [{"agreement": round(float(quality.agreement.score[index]), 4)} for index in kept]
    pairs = [data.synthetic.pairs[index] for index in kept]
    folder = write_selection(data.samples, pairs, data.encoding, target, notes)
    return {"folder": str(folder), "threshold": threshold, "kept": len(kept)}


def _announce(data: EvaluationData, notes: list[str]) -> None:
    height, width = data.size
    training = "" if data.training is None else f"{len(data.training.pairs)} training and "
    counts = f"{training}{len(data.test.pairs)} test images"
    print(f"{counts}, {len(data.synthetic.pairs)} samples of {data.samples.folder}, all at {width}x{height} pixels")
    for line in (*data.warnings, *notes):
        print(f"warning: {line}")


def _finish(record: dict[str, Any], quality: Quality, folder: Path) -> None:
    study = record["study"]
    if study is not None:
        print(f"\n{study['headline']}")
        for entry in study["architectures"].values():
            for line in (entry.get("verdict"), entry.get("rivals")):
                if line:
                    print(f"  {line['line']}")
    for line in quality.findings:
        print(line)
    for line in [*(study["warnings"] if study else []), *quality.warnings]:
        print(f"warning: {line}")
    filtered = record.get("filtered")
    if filtered:
        print(f"{filtered['kept']} of {len(quality.agreement.score)} samples copied to {filtered['folder']}")
    for name in (REPORT, RECORD):
        print(f"  {(folder / name).absolute()}")
