"""One evaluation from start to end: check, train, measure, report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluations.errors import EvaluationError
from evaluations.metrics.agreement import SCORE
from evaluations.metrics.base import Measurement
from evaluations.study.settings import runs_of, settings_of
from guided_diffusion.config.evaluate import EvaluateConfig
from guided_diffusion.data.groups import groups_of
from guided_diffusion.data.mirror import flip_pairs
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import index_pairs
from guided_diffusion.data.scan.problems import refuse_fatal
from guided_diffusion.pipelines.cards.selected import write_selected_card
from guided_diffusion.pipelines.evaluation.card import update_card
from guided_diffusion.pipelines.evaluation.data import (
    LEAST,
    LEAST_SAMPLES,
    EvaluationData,
    ScannedData,
    load_data,
    refuse_few,
    scan_data,
)
from guided_diffusion.pipelines.evaluation.metrics import MetricContext, make_metrics
from guided_diffusion.pipelines.evaluation.options import find_others, needs_training, resolve_options, without_masks
from guided_diffusion.pipelines.evaluation.report import describe_data, report_page, warnings_of
from guided_diffusion.pipelines.evaluation.segmenter import read_external
from guided_diffusion.pipelines.evaluation.study import prepare_study, refuse_surely_few
from guided_diffusion.pipelines.known_classes import known_classes
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


def plan_lines(config: EvaluateConfig) -> list[str]:
    """Return how many images are compared and models trained; UserError where that could not begin."""
    config, samples, _ = _checked(config)
    mode, lines, used = get_mode(config.source.dataset_mode), [], {}
    splits = (("train", config.max_training), ("test", config.max_test))
    for split, most in () if without_masks(mode.name) else splits:  # only annotations tell how many have boxes
        pairs, problems = index_pairs(config.source.data_dir, mode, split, with_instances=False)
        if split == "test" or needs_training(config):
            refuse_fatal(problems)
            used[split] = [pair.stem for pair in pairs[:most]]
            refuse_few(len(used[split]), Path(config.source.data_dir) / split, LEAST[split])
        fewer = "" if most is None or most >= len(pairs) else f", {most} of them used"
        lines.append(f"{len(pairs)} pairs in {split}{fewer}")
    counts = {each.folder: _most_samples(each) for each in (samples, *find_others(config, samples).values())}
    if used:
        _refuse_names(config, used)
        if config.study.study:
            refuse_surely_few(config, len(used["train"]), counts)
    refuse_few(counts[samples.folder], samples.folder, LEAST_SAMPLES)
    lines.append(f"{len(samples.lines) - len(samples.labeled) or 'unlisted'} samples in {samples.folder}")
    options = config.study
    if not options.study:
        return [*lines, config.idle_study or "no models are compared"]
    settings = settings_of(
        options.ratios or (),
        baselines=options.baselines,
        synthetic_only=options.synthetic_only,
        augment_all=options.augment_all,
        others=options.other_dirs,
    )
    count = len(runs_of(options.architectures, settings, options.seeds))
    each = f"{len(options.architectures)} architectures x {len(settings)} settings x {options.seeds} seeds"
    return [
        *lines,
        f"{each}: {count} models of {options.train_steps} steps each; those that are there are not repeated",
    ]


def _most_samples(samples: SampleFolder) -> int:
    """Return the number of images of a folder that may be samples, whether they are in its manifest or not."""
    return sum(path.is_file() for path in (samples.folder / "images").rglob("*")) - len(samples.labeled)


def _refuse_names(config: EvaluateConfig, used: Mapping[str, Sequence[str]]) -> None:
    """Raise UserError for names of classes and images that options expect and the dataset does not have.

    used: split -> the names of its images.
    """
    flip_pairs(known_classes(config.source), config.source.flip_pairs)
    pattern = config.source.group_pattern
    if "train" in used:
        groups_of(pattern, [*used["test"], *used["train"]])
    for names in used.values() if config.trains_models else ():
        groups_of(pattern, names)


def _evaluate(config: EvaluateConfig, world: ProcessGroup) -> None:
    config, samples, written = _checked(config)
    if line := config.idle_study:
        print(f"note: {line}")
    with output_of("evaluate", [paths[0] for paths in written.values()], world):
        _evaluate_into(Path(config.output_dir), config, samples, _filtered_folder(config), world.device)


def _checked(config: EvaluateConfig) -> tuple[EvaluateConfig, SampleFolder, dict[str, list[Path]]]:
    """Return the options completed by the samples, these, and the folders that are written, by their keys."""
    folder, threshold = Path(config.output_dir), config.quality.filter_below
    refuse_other_record("output_dir", folder, "evaluate")
    samples = find_samples(config.synthetic_dir)
    filtered = _filtered_folder(config)
    if threshold is not None:
        refuse_target(samples, filtered)
    config = resolve_options(config, samples)
    written = {"output_dir": [folder]}
    if threshold is not None:
        written["filtered_dir"] = [filtered, filtered / samples.split]
    refuse_written_sources(written, [*dataset_folders(config.source), *_folders_of_samples(config, samples)])
    return config, samples, written


def _filtered_folder(config: EvaluateConfig) -> Path:
    return Path(config.quality.filtered_dir) if config.quality.filtered_dir else Path(config.output_dir) / FILTERED


def _folders_of_samples(config: EvaluateConfig, samples: SampleFolder) -> list[ReadFolder]:
    folders = sample_folders("synthetic_dir", config.synthetic_dir, samples.folder)
    for given in config.study.other_dirs:
        folders += sample_folders("other_dirs", given, find_samples(given, "other_dirs").folder)
    for key, given in (("diversity_dir", config.quality.diversity_dir), ("null_dir", config.objects.null_dir)):
        if given:
            folders += sample_folders(key, given, find_samples(given, key).folder)
    return folders


def _evaluate_into(
    folder: Path, config: EvaluateConfig, samples: SampleFolder, filtered_folder: Path, device: torch.device
) -> None:
    """Train, measure and write the report into `folder`, and samples above the threshold into `filtered_folder`."""
    threshold = config.quality.filter_below
    external = read_external(config, device)
    scanned = scan_data(config, samples)
    segmenter = None if external is None else external(scanned.view.encoding.names)
    has_masks = not without_masks(config.source.dataset_mode)
    context = MetricContext(
        config.quality, config.study.seed, device, config.deeplab, folder, config.objects, has_masks
    )
    metrics = make_metrics(context)
    data = load_data(scanned, compared_with_test=config.quality.compare_with == "test")
    study = prepare_study(config, data, folder, device)
    make_folder(folder)
    if study is not None:
        study.results.begin()
    write_run_record(folder, "evaluate", config.to_json())
    _announce(data, context.notes)
    if study is not None:
        study.train()
        segmenter = study.segmenter() if study.study.with_agreement else segmenter
    sets = replace(data.sets, segmenter=segmenter)
    measured = {metric.key: metric.measure(sets) for metric in metrics}
    record = {
        "data": describe_data(config.source, data),
        "study": None if study is None else study.summary(sets.class_names),
        **{key: measurement.record for key, measurement in measured.items()},
        "options": config.to_json(),
        "versions": library_versions() | library_versions(METRIC_LIBRARIES),
    }
    if threshold is not None:
        record["filtered"] = write_filtered(scanned, measured["agreement"], threshold, filtered_folder)
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
    measurements = list(measured.values())
    page = report_page(record, sets, measurements, samples.config, config.quality.report_images)
    write_text(folder / REPORT, page)
    _finish(record, measurements, folder)
    for line in update_card(samples, record, measurements):
        print(line)


def write_filtered(scanned: ScannedData, found: Measurement, threshold: float, target: Path) -> dict[str, Any]:
    """Copy the samples whose agreement is at least `threshold`, and return the entry in report.json."""
    scores = found.sample_scores[SCORE]
    passing = np.flatnonzero(scores >= threshold)
    notes = [{"agreement": round(float(score), 4)} for score in scores[passing]]
    pairs = [scanned.samples[index] for index in passing]
    encoding = scanned.view.encoding
    folder = write_selection(scanned.folder, pairs, encoding, target, notes)
    if scanned.folder.lines:
        write_selected_card(folder, scanned.folder, pairs, encoding, threshold, found.record["segmenter"])
    return {"folder": str(folder), "threshold": threshold, "kept": len(pairs)}


def _announce(data: EvaluationData, notes: Sequence[str]) -> None:
    sets, (height, width) = data.sets, data.sets.size
    training = "" if sets.training is None else f"{len(sets.training)} training and "
    counts = f"{training}{len(sets.test)} test images, {len(sets.samples)} samples of {data.scanned.folder.folder}"
    print(f"{counts}, all at {width}x{height} pixels")
    for line in (*data.warnings, *notes):
        print(f"warning: {line}")


def _finish(record: Mapping[str, Any], measured: Sequence[Measurement], folder: Path) -> None:
    study, filtered = record["study"], record.get("filtered")
    if study is not None:
        print(f"\n{study['headline']}")
        for entry in study["architectures"].values():
            for line in (entry.get("verdict"), entry.get("rivals")):
                if line:
                    print(f"  {line['line']}")
    for measurement in measured:
        for line in measurement.findings:
            print(line)
    for line in [*(study["warnings"] if study else []), *warnings_of(measured)]:
        print(f"warning: {line}")
    if filtered is not None:
        print(f"{filtered['kept']} of {record['data']['images']['samples']} samples copied to {filtered['folder']}")
    for name in (REPORT, RECORD):
        print(f"  {(folder / name).absolute()}")
