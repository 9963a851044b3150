"""The trainings of a study: which there are, in which order, and one of them from its images to its result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from evaluations.segmentation.crop_training import Checkpoint, CropTrainingPlan, train_on_crops
from evaluations.segmentation.crops import CropPlan, Late
from evaluations.segmentation.defect_scores import DefectTest, measure_defects
from evaluations.segmentation.models import build_segmenter, check_size, input_form
from evaluations.segmentation.sliding import predict_whole
from evaluations.segmentation.weights import weights_digest
from evaluations.sets import Images, Labels
from evaluations.whole_images import WholeImages
from guided_diffusion import __version__
from guided_diffusion.config.study import UNAUGMENTED, CropSegmenterOptions, DesignOptions, amount_name
from guided_diffusion.data.mirror import exchanged
from guided_diffusion.pipelines.evaluation.study import architecture_names
from guided_diffusion.pipelines.study.arms import ArmSet
from guided_diffusion.pipelines.study.setup import StudySetup
from guided_diffusion.runtime.errors import UserError

CHECKPOINT_SECONDS = 120
"""About how often an unfinished training is kept."""


@dataclass(frozen=True)
class SegmenterRun:
    """One training of a study."""

    amount: int | None
    arm: str
    architecture: str
    repeat: int

    @property
    def key(self) -> str:
        """Its name among the results."""
        return f"{self.architecture}-n{amount_name(self.amount)}-{self.arm}-{self.repeat}"


def runs_of(design: DesignOptions, arms: Sequence[str], architectures: Sequence[str]) -> list[SegmenterRun]:
    """Return all trainings: one seed after the other, so that every arm has a first result early.

    The first architecture is trained at all amounts, the others at `other_amount`.
    """
    repeats, runs = design.repeats, []
    for repeat in range(max(repeats.values())):
        for number, architecture in enumerate(architectures):
            for amount, seeds in repeats.items():
                if repeat < seeds and (number == 0 or amount == design.other_amount):
                    runs += [SegmenterRun(amount, arm, architecture, repeat) for arm in arms]
    return runs


@dataclass(frozen=True)
class SegmenterTraining:
    """How the models of a study are built, trained and tested."""

    options: CropSegmenterOptions
    num_classes: int
    device: torch.device
    seed: int
    exchanged: tuple[tuple[int, int], ...] = ()
    defects: tuple[int, ...] | None = None
    """Ids of the defect classes; None: all but the background."""

    @classmethod
    def of(cls, setup: StudySetup, device: torch.device) -> SegmenterTraining:
        config = setup.config
        classes = len(setup.class_names)
        return cls(config.segmenter, classes, device, config.seed, setup.exchanged, setup.chosen_defects)

    @property
    def architectures(self) -> tuple[str, ...]:
        return architecture_names(self.options.architectures)

    def check(self) -> None:
        """Build every model once. Raises EvaluationError for names, weights and sizes that do not fit."""
        for name in self.architectures:
            check_size(self.options.crop, self.options.crop, self.build(name, 0), option="crop")

    def seed_of(self, repeat: int) -> int:
        """Return the seed of weights and crops of a repeat, the same for all arms."""
        return int(np.random.SeedSequence([self.seed, repeat]).generate_state(1)[0])

    def build(self, architecture: str, repeat: int) -> nn.Module:
        """Return an untrained model."""
        options = self.options
        return build_segmenter(
            architecture,
            options.encoder,
            num_classes=self.num_classes,
            encoder_weights=options.encoder_weights,
            seed=self.seed_of(repeat),
        )

    def plan(self, steps: int | None = None) -> CropTrainingPlan:
        """Return how a model is trained."""
        options = self.options
        return CropTrainingPlan(
            options.steps if steps is None else steps,
            options.batch_size,
            encoder_rate=options.encoder_lr,
            decoder_rate=options.lr,
            form=input_form(options.encoder),
        )

    @property
    def workers(self) -> int:
        """The number of processes that draw crops."""
        if self.options.num_workers is not None:
            return self.options.num_workers
        return 0 if self.device.type == "cpu" else min(4, os.cpu_count() or 1)

    def crops(self, arm: str) -> CropPlan:
        """Return how the crops of an arm are drawn."""
        relabel = partial(exchanged, pairs=self.exchanged) if self.exchanged else None
        options = self.options
        augment = arm != UNAUGMENTED
        return CropPlan(
            options.crop,
            augment=augment,
            vertical_flip=options.vertical_flip,
            relabel=relabel,
            classes=self.defects,
        )

    def predict(self, model: nn.Module, images: Sequence[Images]) -> Iterator[Labels]:
        """Return the most likely class of each pixel of whole images, one after the other."""
        return predict_whole(
            model,
            images,
            window=self.options.crop,
            batch_size=self.options.batch_size,
            device=self.device,
            form=input_form(self.options.encoder),
        )

    def settings(self) -> dict[str, Any]:
        """Return what results depend on, besides the images."""
        values = self.options.model_dump(mode="json", exclude={"architectures", "num_workers"})
        weights = self.options.encoder_weights
        # A file is identified by its contents, wherever it is.
        return {**values, "encoder_weights": weights_digest(weights) or weights, "seed": self.seed}


@dataclass(frozen=True)
class TestImages:
    """The real test images: with defects, and good ones."""

    __test__ = False  # it is no test of pytest

    defects: WholeImages
    good: WholeImages


def train_and_test(
    run: SegmenterRun,
    training: SegmenterTraining,
    arm: ArmSet,
    test: TestImages,
    checkpoint: Path,
    *,
    every: int,
    late: Late | None = None,
    callback: Callable[[int], None] = lambda step: None,
    keep: Callable[[nn.Module], None] = lambda model: None,
) -> dict[str, Any]:
    """Train a model on an arm and return its result in JSON types, with its pixel counts on each test image.

    checkpoint: where an unfinished training is kept every so many steps, and from where it goes on. late: how the last
    steps draw images. keep: is called with the trained model. Raises UserError if the loss is not finite,
    EvaluationError for a checkpoint that is damaged or of another training.
    """
    seed = training.seed_of(run.repeat)
    try:
        trained = train_on_crops(
            training.build(run.architecture, run.repeat),
            arm.images,
            training.crops(run.arm),
            training.plan(),
            seed=seed,
            device=training.device,
            weights=arm.weights,
            late=late,
            checkpoint=Checkpoint(checkpoint, every),
            workers=training.workers,
            callback=callback,
        )
    except FloatingPointError as error:
        raise UserError(f"lr is {training.options.lr:g}, and {error}: lower it") from error
    started = time.perf_counter()
    predict = partial(training.predict, trained.model)
    found = measure_defects(predict, test.defects, test.good, classes=training.defects)
    seconds = time.perf_counter() - started
    keep(trained.model)
    return {
        **_as_record(run),
        "real": arm.real,
        "good": arm.good,
        "synthetic": arm.synthetic,
        "images": arm.images.digest,
        "isdm": __version__,
        "seconds": trained.seconds,
        "test_seconds": seconds,
        **found.to_json(),
    }


def _as_record(run: SegmenterRun) -> dict[str, Any]:
    return {
        "architecture": run.architecture,
        "amount": amount_name(run.amount),
        "arm": run.arm,
        "repeat": run.repeat,
    }


def tested(result: dict[str, Any]) -> DefectTest:
    """Return the test of a result."""
    return DefectTest.from_json(result)
