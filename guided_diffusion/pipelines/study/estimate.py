"""How long a study will take: measured on a few steps of each kind, or on what is finished."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from evaluations.segmentation.crop_training import train_on_crops
from guided_diffusion.config.load import load_config
from guided_diffusion.config.study import REAL
from guided_diffusion.pipelines.evaluation.results import StudyResults
from guided_diffusion.pipelines.study.generator import (
    FOLDERS,
    PLACE,
    REPAINT,
    SAMPLE,
    TRAIN,
    Generator,
    RunAction,
    action_of,
    training_steps,
)
from guided_diffusion.pipelines.study.progress import duration
from guided_diffusion.pipelines.study.runs import SegmenterRun, SegmenterTraining
from guided_diffusion.pipelines.study.setup import StudySetup
from guided_diffusion.pipelines.study.trainings import StudyImages
from guided_diffusion.runtime.files import write_text
from guided_diffusion.runtime.logs import read_json_lines, read_run_record
from guided_diffusion.samples.manifest import MANIFEST, PART

RECORD, FOLDER = "estimate.json", "estimate"
STEPS = 4  # of each model that are timed, after one that is not
PLACED_IMAGES = 2  # that are timed, after as many that are not
TESTED_IMAGES = 4

_MADE = {PLACE: "defects placed", REPAINT: "pasted defects repainted", SAMPLE: "windows sampled"}

Seconds = dict[str, float]
"""Of one unit of each kind of work: a step of the generator, a placed image, a sampled window, a segmentation model."""


@dataclass(frozen=True)
class Work:
    """One line of the estimate: how many units are left of how many, and how many seconds one takes."""

    name: str
    count: int
    left: int
    unit: str
    seconds: float

    @property
    def total(self) -> float:
        return self.left * self.seconds


def table(work: Sequence[Work]) -> str:
    """Return the lines of work and their sum as text."""
    rows = [("what", "how many", "left", "how long")]
    rows += [(each.name, f"{each.count} {each.unit}", f"{each.left}", duration(each.total)) for each in work]
    rows.append(("all together", "", "", duration(sum(each.total for each in work))))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def estimate(
    setup: StudySetup,
    generators: Sequence[Generator],
    runs: Sequence[SegmenterRun],
    training: SegmenterTraining,
    images: StudyImages,
    results: StudyResults,
    run_action: RunAction,
) -> tuple[list[Work], Seconds]:
    """Return the work that is left, and the seconds of one unit of each kind."""
    seconds = _finished_seconds(generators, training, results)
    folder = Path(setup.config.output_dir)
    needed = [key for key in _keys(setup, generators, training) if key not in seconds]
    if needed:
        measured = _measured(generators, training, images, run_action, needed, folder)
        seconds = {**measured, **seconds}
    work = []
    for generator in generators:
        for stage in generator.stages:
            work.append(_stage_work(setup, generator, stage, seconds))
    for name in training.architectures:
        own = [run for run in runs if run.architecture == name]
        left = sum(run.key not in results for run in own)
        if own:
            work.append(Work(f"segmentation models: {name}", len(own), left, "trainings", seconds[name]))
    return work, seconds


def _keys(setup: StudySetup, generators: Sequence[Generator], training: SegmenterTraining) -> list[str]:
    """Return the stages of which something is left to do, and the architectures."""
    left = {stage for each in generators for stage in each.stages if _stage_work(setup, each, stage, {}).left}
    return [*(stage for stage in (TRAIN, *FOLDERS) if stage in left), *training.architectures]


def _stage_work(setup: StudySetup, generator: Generator, stage: str, seconds: Seconds) -> Work:
    count, done, unit = setup.config.design.pairs, 0, "images"
    if stage == TRAIN:
        count, unit = training_steps(setup, generator.amount), "steps"
        done = _steps_done(generator)
        name = f"generator of {generator.name} images"
    else:
        done, what = _lines(generator.folder / FOLDERS[stage]), _MADE[stage]
        name, unit = f"{what} by it ({generator.name})", "windows" if stage == SAMPLE else "images"
    left = 0 if generator.is_done(stage) else max(0, count - done)
    return Work(name, count, left, unit, seconds.get(stage, 0.0))


def _metrics(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    return read_json_lines(path) if path.exists() else []


def _steps_done(generator: Generator) -> int:
    return max((line.get("step", 0) for line in _metrics(generator.folder / TRAIN)), default=0)


def _lines(folder: Path) -> int:
    """Return how many pairs a folder has, those of an interrupted run included."""
    files = [folder / MANIFEST, *folder.glob(PART.format("*"))] if folder.is_dir() else []
    return sum(len(read_json_lines(path)) for path in files if path.exists())


def _finished_seconds(generators: Sequence[Generator], training: SegmenterTraining, results: StudyResults) -> Seconds:
    """Return the seconds of the units that have been finished."""
    seconds: Seconds = {}
    for generator in generators:
        rates = [
            line["images_per_second"] for line in _metrics(generator.folder / TRAIN) if "images_per_second" in line
        ]
        if rates and TRAIN in generator.stages:
            seconds[TRAIN] = _batch_size(generator) / rates[-1]
    for key in results:
        result = results[key]
        if result["architecture"] in training.architectures:
            seconds[result["architecture"]] = result["seconds"] + result["test_seconds"]
    return seconds


def _batch_size(generator: Generator) -> int:
    return load_config(TRAIN, generator.stages[TRAIN]).optimizer.batch_size


# ------------------------------------------------------------------------------------------------- measurements


def _measured(
    generators: Sequence[Generator],
    training: SegmenterTraining,
    images: StudyImages,
    run_action: RunAction,
    needed: Sequence[str],
    folder: Path,
) -> Seconds:
    """Return the seconds of units by measuring them, or as an earlier start of the same study measured them."""
    stages = generators[-1].stages
    asked = {"stages": {key: dict(stages[key]) for key in stages}, "models": training.settings()}
    key = sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    there = read_run_record(folder, RECORD)
    seconds: Seconds = there.get("seconds", {}) if there.get("of") == key else {}
    missing = [each for each in needed if each not in seconds]
    if missing:
        print("measuring how long it will take")
        # The generator of all images stands for all: its steps and images are like theirs.
        if set(missing) & set(stages):
            seconds |= _generator_seconds(stages, folder / FOLDER, run_action)
        for name in training.architectures:
            if name in missing:
                seconds[name] = _model_seconds(name, training, images)
        write_text(folder / RECORD, json.dumps({"of": key, "seconds": seconds}, indent=1) + "\n")
    return seconds


def _generator_seconds(stages: dict, folder: Path, run_action: RunAction) -> Seconds:
    """Return the seconds of a training step, a placed image and a sampled window; `folder` is removed afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    seconds: Seconds = {}

    def timed(stage: str, **values) -> float:
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            run_action(action_of(stage), load_config(action_of(stage), {**stages[stage], **values}))
        return time.perf_counter() - started

    try:
        run = str(folder / TRAIN)
        short = {"output_dir": run, "max_epochs": 1, "lr_anneal_steps": STEPS + 1, "preview_interval": 0}
        whole = timed(TRAIN, **short)
        rates = [line.get("images_per_second") for line in _metrics(Path(run))]
        batch = load_config(TRAIN, stages[TRAIN]).optimizer.batch_size
        seconds[TRAIN] = batch / rates[-1] if rates and rates[-1] else whole / (STEPS + 1)
        for stage in FOLDERS:
            if stage in stages:
                options = {"model_path": run, "results_path": str(folder / stage)}
                first = timed(stage, **options, num_samples=PLACED_IMAGES)
                second = timed(stage, **options, num_samples=3 * PLACED_IMAGES)
                # The second run makes twice as many as the first: reading and loading take both as long.
                seconds[stage] = max(second - first, 0.1 * second) / PLACED_IMAGES
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return seconds


def _model_seconds(name: str, training: SegmenterTraining, images: StudyImages) -> float:
    """Return the seconds of a training and its test."""
    ticks = []
    model = train_on_crops(
        training.build(name, 0),
        images.whole,
        training.crops(REAL),
        training.plan(STEPS + 1),
        seed=0,
        device=training.device,
        workers=training.workers,
        callback=lambda step: ticks.append(time.perf_counter()),
    ).model
    step = (ticks[-1] - ticks[0]) / (len(ticks) - 1)
    test = images.test
    chosen = [*test.defects.images, *test.good.images]
    chosen = chosen[:: max(1, math.ceil(len(chosen) / TESTED_IMAGES))]
    started = time.perf_counter()
    list(training.predict(model, chosen))
    image = (time.perf_counter() - started) / len(chosen)
    return step * training.options.steps + image * (len(test.defects) + len(test.good))
