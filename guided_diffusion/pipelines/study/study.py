"""One study from start to end: check, estimate, generators, segmentation models, report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from evaluations.errors import EvaluationError
from evaluations.report.page import Sheet
from guided_diffusion.config.study import COPIED, GENERATED, StudyConfig
from guided_diffusion.data.pairing import list_good_images, list_pairs
from guided_diffusion.pipelines.evaluation.evaluate import RECORD, REPORT
from guided_diffusion.pipelines.output import (
    ReadFolder,
    dataset_folders,
    refuse_other_record,
    refuse_written_sources,
)
from guided_diffusion.pipelines.study.amounts import refuse_amount
from guided_diffusion.pipelines.study.at_once import work_at_once
from guided_diffusion.pipelines.study.estimate import estimate, table
from guided_diffusion.pipelines.study.generator import RunAction, generator_of
from guided_diffusion.pipelines.study.measures import (
    agreement_lines,
    check_inception,
    looks_lines,
    measure_images,
)
from guided_diffusion.pipelines.study.progress import Progress
from guided_diffusion.pipelines.study.report import CURVE_FILE, PICTURE_FILE, picture_of, study_record, write_report
from guided_diffusion.pipelines.study.runs import SegmenterTraining, runs_of
from guided_diffusion.pipelines.study.setup import (
    good_folders,
    left_aside,
    mode_of_study,
    prepare,
    read_configs,
    refuse_shared_groups,
    refuse_unknown_classes,
)
from guided_diffusion.pipelines.study.trainings import (
    StudyImages,
    agreement_run,
    forget_finished,
    forget_lost_segmenter,
    load_segmenter,
    memory_line,
    open_results,
    refuse_results_of_lost_pairs,
    results_of_other_images,
    segmenter_path,
    train_all,
)
from guided_diffusion.runtime.errors import UserError
from guided_diffusion.runtime.lock import folder_lock
from guided_diffusion.runtime.logs import write_run_record
from guided_diffusion.runtime.units import counted
from guided_diffusion.runtime.whole_folder import emptied_on_failure


def study(config: StudyConfig, device: torch.device, run_action: RunAction) -> None:
    """Make everything that is not there yet, and write the report. `run_action` runs the actions of the generators."""
    _refuse_folders(config)
    try:
        with folder_lock(config.output_dir, "study"):
            _study(config, device, run_action)
    except EvaluationError as error:
        raise UserError(str(error)) from error


def plan_lines(config: StudyConfig) -> list[str]:
    """Return how many images are compared and models trained; UserError where that could not begin."""
    _refuse_folders(config)
    _, training, place_keys = read_configs(config)
    source = config.source if training is None else training.source
    mode = mode_of_study(source)
    pairs = {split: list_pairs(source.data_dir, mode, split) for split in ("train", "test")}
    for amount in config.design.repeats:
        refuse_amount(amount, len(pairs["train"]))
    refuse_unknown_classes(config, source, place_keys)
    lines = [f"{len(found)} pairs in {split}" for split, found in pairs.items()]
    good, good_test = (list_good_images(folder) for folder in good_folders(config))
    lines += [f"{len(good)} good images for training", f"{len(good_test)} good images for the test"]
    refuse_shared_groups(source, (*pairs["train"], *good), (*pairs["test"], *good_test))
    design = config.design
    if set(design.arms) & set(GENERATED):
        lines.append(f"{len(design.repeats)} generators, and {design.pairs} pairs by each for each arm that needs them")
    elif set(design.arms) & set(COPIED):
        lines.append(
            f"{design.pairs} pairs with copies at each of {counted(len(design.repeats), 'amount')}, no generator"
        )
    count = len(runs_of(design, design.arms, config.segmenter.architectures))
    lines.append(f"{count} segmentation models of {config.segmenter.steps} steps each; those that are there stay")
    return [*lines, *config.idle, *left_aside(config), "estimate_only=true measures how long that takes"]


def _refuse_folders(config: StudyConfig) -> None:
    refuse_other_record("output_dir", config.output_dir, "study")
    read = [ReadFolder(key, Path(folder).absolute(), Path(folder).absolute()) for key, folder in _good(config)]
    refuse_written_sources({"output_dir": Path(config.output_dir)}, [*dataset_folders(config.source), *read])


def _good(config: StudyConfig) -> list[tuple[str, str]]:
    train, test = good_folders(config)
    return [("good_dir", train), ("good_test_dir" if config.good_test_dir else "good_dir", test)]


def _study(config: StudyConfig, device: torch.device, run_action: RunAction) -> None:
    setup = prepare(config)
    for line in (*config.idle, *left_aside(config)):
        print(f"note: {line}")
    training = SegmenterTraining.of(setup, device)
    training.check()
    check_inception(config.inception_weights, device)
    for line in setup.warnings:
        print(f"warning: {line}")
    generators = {amount: generator_of(setup, amount) for amount in config.design.repeats}
    images = StudyImages.read(setup, generators)
    if line := memory_line(images, config.at_once, training.workers):
        print(f"warning: {line}")
    runs = runs_of(config.design, setup.arms, training.architectures)
    with emptied_on_failure(config.output_dir):
        results = open_results(setup, training, images)
        write_run_record(config.output_dir, "study", config.to_json())
        refuse_results_of_lost_pairs(generators.values(), results)
        for generator in generators.values():
            generator.begin(setup)
        images.check_places()
        work, seconds = estimate(setup, list(generators.values()), runs, training, images, results, run_action)
    print(f"\n{table(work)}\n", flush=True)
    if config.estimate_only:
        return

    def report(
        measures: dict[str, Any] | None = None, picture: Sheet | None = None, warnings: Sequence[str] = ()
    ) -> None:
        write_report(study_record(images, runs, results, measures or {}, warnings), images, picture)

    forget_finished(config, runs, results)
    forget_lost_segmenter(training, config, results)
    at_once = config.at_once
    if at_once == 1:
        for generator in generators.values():
            generator.run(run_action)
    with Progress(
        runs, results, steps=config.segmenter.steps, seconds=seconds, after_round=report, at_once=at_once
    ) as progress:
        if at_once == 1:
            train_all(training, images, progress)
        else:
            work_at_once(training, images, progress, run_action)
    run = agreement_run(config, training.architectures[0])
    model = load_segmenter(training, config) if run is not None else None
    measures = measure_images(images, training, model, run, segmenter_path(config))
    report(measures, picture_of(images), results_of_other_images(images, runs, results))
    _finish(config, measures)


def _finish(config: StudyConfig, measures: dict[str, Any]) -> None:
    folder = Path(config.output_dir)
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    for line in record["warnings"]:
        print(f"warning: {line}")
    for name, verdict in record["verdicts"].items():
        print(f"{name}: {verdict['headline']}")
        for line in verdict["lines"]:
            print(f"  {line}")
    for line in record["advice"]:
        print(line)
    for line in agreement_lines(measures.get("agreement", {})):
        print(line)
    for line in looks_lines(measures.get("looks", {})):
        print(f"warning: {line}")
    for name in (REPORT, RECORD, CURVE_FILE, PICTURE_FILE):
        if (folder / name).exists():
            print(f"  {(folder / name).absolute()}")
