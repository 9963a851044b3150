"""The downstream study: the same segmentation models trained on real, mixed and synthetic data, and on cheap baselines.

Every setting of a seed has the same initial weights, validation images, number of optimization steps and test images,
so that settings are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluations.groups import Groups
from evaluations.metrics.segmentation import Counts
from evaluations.segmentation.augmentation import DefectBank, standard_augmentation
from evaluations.segmentation.training import Augmentation, evaluate_segmenter, train_segmenter
from evaluations.sets import ImageSet
from evaluations.study.settings import REAL_ONLY, STANDARD_AUGMENTATION, Run, Setting, StudyPlan, runs_of
from evaluations.study.training_sets import StudyData, training_sets

Results = MutableMapping[str, dict[str, Any]]
"""Key of a run -> counts on each test image and how it was trained, in JSON types; may be kept on disk."""


@dataclass(frozen=True)
class Study:
    """The trainings of a study and their results.

    compared: whether settings are compared, or only one segmenter is trained. with_agreement: whether one of the models
    is the segmenter of mask agreement. test_groups: of the test images, by which intervals draw them.
    """

    data: StudyData
    plan: StudyPlan
    architectures: tuple[str, ...]
    settings: tuple[Setting, ...]
    seeds: int
    compared: bool
    with_agreement: bool
    results: Results
    test_groups: Groups | None = None

    @property
    def candidates(self) -> list[Run]:
        """The runs whose models can be the segmenter of mask agreement: see `candidates_of`."""
        return candidates_of(self.architectures[0], augment_all=self.plan.augment_all) if self.with_agreement else []

    @property
    def segmenter_run(self) -> Run:
        """The candidate of the best validation score, once all are trained."""
        return max(self.candidates, key=lambda run: self.results[run.key]["validation_miou"])

    @property
    def runs(self) -> list[Run]:
        """All trainings, the candidates first."""
        compared = runs_of(self.architectures, self.settings, self.seeds) if self.compared else []
        return [*self.candidates, *(run for run in compared if run not in self.candidates)]


def candidates_of(architecture: str, *, augment_all: bool) -> list[Run]:
    """Return the runs whose models can be the segmenter of mask agreement: trained on real images alone.

    The validation images choose among them, as the standard augmentation helps unless training is short.
    """
    settings = [REAL_ONLY] if augment_all else [REAL_ONLY, STANDARD_AUGMENTATION]
    return [Run(architecture, setting, 0) for setting in settings]


def run_study(
    data: StudyData,
    plan: StudyPlan,
    runs: Sequence[Run],
    results: Results,
    *,
    callback: Callable[[Run], None] = lambda run: None,
    keep: Callable[[Run, nn.Module], None] = lambda run, model: None,
) -> None:
    """Train and test the runs that `results` lacks, and add each as soon as it is finished.

    callback: called after every optimization step. keep: called with each trained model.
    """
    for run in runs:
        if run.key not in results:
            sets = training_sets(data, run.setting, plan, run.repeat)
            seed = plan.seed_of(run.repeat)
            trained = train_segmenter(
                plan.build(run.architecture, seed),
                sets.training,
                sets.validation,
                plan.training,
                seed=seed,
                device=plan.device,
                augment=_augmentation(run.setting, sets.training, plan),
                callback=partial(callback, run),
            )
            counts = evaluate_segmenter(
                trained.model, data.test, plan.training.batch_size, plan.device, plan.training.form
            )
            keep(run, trained.model)
            results[run.key] = {
                "architecture": run.architecture,
                "arm": run.setting.name,
                "repeat": run.repeat,
                "real": sets.real,
                "synthetic": sets.synthetic,
                "best_step": trained.best_step,
                "validation_miou": trained.validation_miou,
                "counts": counts.to_json(),
            }


def counts_of(
    results: Mapping[str, Mapping[str, Any]], architecture: str, setting: Setting, seeds: int
) -> list[Counts]:
    """Return the counts on the test images of a setting, one entry a seed."""
    return [Counts.from_json(results[Run(architecture, setting, repeat).key]["counts"]) for repeat in range(seeds)]


def _augmentation(setting: Setting, training: ImageSet, plan: StudyPlan) -> Augmentation | None:
    options = {"vertical_flip": plan.vertical_flip, "relabel": plan.relabel}
    standard = partial(standard_augmentation, num_classes=training.num_classes, **options)
    chain: list[Augmentation] = []
    if setting.augmentation == "copy-paste":
        images = torch.from_numpy(training.images).permute(0, 3, 1, 2)
        labels = torch.from_numpy(training.labels.astype(np.int64))
        chain.append(DefectBank(images, labels, training.num_classes, plan.relabel).paste)
    if setting.augmentation == "standard" or plan.augment_all:
        chain.append(standard)

    def augment(image: Tensor, label: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        for change in chain:
            image, label = change(image, label, generator)
        return image, label

    return augment if chain else None
