"""The downstream study: the same segmentation models trained on real, mixed and synthetic data, and on cheap rivals.

Every arm of a seed has the same initial weights, validation images, number of optimisation steps and test images, so
that arms are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluations.metrics.segmentation import Counts
from evaluations.segmentation.augmentation import DefectBank, usual_augmentation
from evaluations.segmentation.training import (
    Augmentation,
    TrainedModel,
    TrainingPlan,
    evaluate_segmenter,
    train_segmenter,
)
from evaluations.sets import ImageSet, Labels

Indices = NDArray[np.int64]

REAL, SYNTHETIC, AUGMENTED, COPY_PASTE = "real", "synthetic", "augmented", "copy_paste"


@dataclass(frozen=True)
class Arm:
    """One way to make a training set.

    name: of the results, safe in file names. label: for people.
    ratio: synthetic images for each real one; None takes all there are.
    """

    name: str
    label: str
    real: bool = True
    ratio: float | None = 0.0
    augmentation: Literal["none", "usual", "copy-paste"] = "none"

    @property
    def is_mix(self) -> bool:
        """Whether real and synthetic images are mixed: what the verdict is about."""
        return self.real and self.ratio != 0


BASELINE = Arm(REAL, "real only")
USUAL = Arm(AUGMENTED, "real, usual augmentation", augmentation="usual")


def arms_of(
    ratios: Sequence[float], *, rivals: bool = True, synthetic_only: bool = True, augment_all: bool = False
) -> list[Arm]:
    """Return the arms of a study: real only, a mix for each ratio, synthetic only, and the cheap rivals.

    augment_all: every arm has the usual augmentation, so that it is no rival.
    """
    mixes = [Arm(f"mix_{ratio:g}", f"real + {ratio:g} synthetic", ratio=ratio) for ratio in ratios]
    alone = [Arm(SYNTHETIC, "synthetic only", real=False, ratio=None)] if synthetic_only else []
    cheap = [USUAL, Arm(COPY_PASTE, "real, copy-paste", augmentation="copy-paste")] if rivals else []
    cheap = [arm for arm in cheap if arm != USUAL or not augment_all]
    return [BASELINE, *mixes, *alone, *cheap]


@dataclass(frozen=True)
class StudyData:
    """What the models of a study are trained and tested on.

    origin: [len(synthetic)] index of the training image whose mask a sample was made from, -1 where unknown.
    """

    training: ImageSet
    test: ImageSet
    synthetic: ImageSet
    origin: Indices

    def __post_init__(self) -> None:
        assert self.origin.shape == (len(self.synthetic),)
        assert len(self.training) >= 2
        assert len(self.test) >= 1


@dataclass(frozen=True)
class StudyOptions:
    """How the models are built and trained.

    build: (architecture, seed) -> an untrained model.
    validation_share: of the real training images that choose the best state; of each arm and seed the same ones.
    seed: repeat k of every arm has the seed (seed, k).
    vertical_flip: whether the usual augmentation turns images upside down, too.
    augment_all: whether every arm has the usual augmentation; copy-paste then comes first.
    """

    build: Callable[[str, int], nn.Module]
    plan: TrainingPlan
    validation_share: float
    device: torch.device
    seed: int = 0
    vertical_flip: bool = False
    augment_all: bool = False


@dataclass(frozen=True)
class Run:
    """One training of a study."""

    architecture: str
    arm: Arm
    repeat: int

    @property
    def key(self) -> str:
        """Its name among the results."""
        return f"{self.architecture}-{self.arm.name}-{self.repeat}"


def runs_of(architectures: Sequence[str], arms: Sequence[Arm], seeds: int) -> list[Run]:
    """Return the runs of a study: all arms of one seed before the next seed, so that a part of it can be read."""
    return [Run(architecture, arm, repeat) for repeat in range(seeds) for architecture in architectures for arm in arms]


def run_study(
    data: StudyData,
    options: StudyOptions,
    runs: Sequence[Run],
    results: MutableMapping[str, dict[str, Any]],
    *,
    callback: Callable[[Run], None] = lambda run: None,
    keep: Callable[[Run, nn.Module], None] = lambda run, model: None,
) -> None:
    """Train and test what `results` lacks, and put it there as soon as it is known.

    results: key -> counts on each test image, in JSON types; may keep them on disk.
    callback: called after every optimisation step. keep: called with each model that has been trained.
    """
    for run in runs:
        if run.key not in results:
            material = material_of(data, run.arm, options, run.repeat)
            trained = _train(options, run, material, callback)
            counts = evaluate_segmenter(trained.model, data.test, options.plan.batch_size, options.device)
            keep(run, trained.model)
            results[run.key] = {
                "architecture": run.architecture,
                "arm": run.arm.name,
                "repeat": run.repeat,
                "real": material.real,
                "synthetic": material.synthetic,
                "best_step": trained.best_step,
                "validation_miou": trained.validation_miou,
                "counts": counts.to_json(),
            }


def counts_of(results: Mapping[str, Mapping[str, Any]], architecture: str, arm: Arm, seeds: int) -> list[Counts]:
    """Return the counts on the test images of an arm, one entry a seed."""
    return [Counts.from_json(results[Run(architecture, arm, repeat).key]["counts"]) for repeat in range(seeds)]


def split_validation(labels: Labels, num_classes: int, share: float, seed: int) -> tuple[Indices, Indices]:
    """Return (training indices, validation indices) of label maps [N, H, W], neither empty.

    Images are grouped by the rarest class that they show, and `share` of each group goes to validation, so that a
    rare class is in both where it can be; a class of one image stays in training. Many small groups would give nearly
    nothing: where less than half of the share comes together, it is topped up at random.
    """
    assert len(labels) >= 2
    shown = np.stack(
        [np.bincount(label.ravel(), minlength=num_classes)[:num_classes] > 0 for label in labels]
    )  # [N, C]
    images = shown.sum(0)
    rarest = np.where(shown, images, len(labels) + 1).argmin(1)
    rng = np.random.default_rng([seed, len(labels)])
    chosen: list[int] = []
    for index in np.unique(rarest):
        group = rng.permutation(np.flatnonzero(rarest == index))
        chosen += group[: min(round(share * len(group)), len(group) - 1)].tolist()
    if not chosen:
        chosen = [int(rng.permutation(np.flatnonzero(rarest == np.bincount(rarest).argmax()))[0])]
    wanted = min(round(share * len(labels)), len(labels) - 1)
    if len(chosen) < wanted / 2:
        others = np.setdiff1d(np.arange(len(labels)), chosen)
        chosen += rng.permutation(others)[: wanted - len(chosen)].tolist()
    held = np.zeros(len(labels), bool)
    held[chosen] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


@dataclass(frozen=True)
class Material:
    """The images of one run; of the training images, `real` are real and `synthetic` are samples."""

    training: ImageSet
    validation: ImageSet
    real: int
    synthetic: int


def material_of(data: StudyData, arm: Arm, options: StudyOptions, repeat: int) -> Material:
    """Return what an arm is trained on and chosen by in one repeat."""
    kept, held, usable = _division(data, options, repeat)
    wanted = len(usable) if arm.ratio is None else min(len(usable), round(arm.ratio * len(kept)))
    # A permutation of all, so that a larger ratio has the samples of a smaller one and more.
    chosen = np.random.default_rng([options.seed, repeat, 1]).permutation(usable)[:wanted]
    samples, real = data.synthetic.subset(np.sort(chosen)), data.training.subset(kept)
    training = real.joined(samples) if arm.real else samples
    return Material(training, data.training.subset(held), len(real) if arm.real else 0, len(samples))


def lacking_samples(data: StudyData, arms: Sequence[Arm], options: StudyOptions, seeds: int) -> int:
    """Return how many more samples the largest ratio would need in some repeat; 0 where there are enough."""
    lacking = 0
    for repeat in range(seeds):
        kept, _, usable = _division(data, options, repeat)
        wanted = [1 if arm.ratio is None else round(arm.ratio * len(kept)) for arm in arms]
        lacking = max(lacking, max(wanted) - len(usable))
    return lacking


def _division(data: StudyData, options: StudyOptions, repeat: int) -> tuple[Indices, Indices, Indices]:
    """Return the real images that train, those that validate, and the samples that may train.

    Samples made from the mask of a validation image may not: a model would be chosen by masks it has seen.
    """
    real = data.training
    kept, held = split_validation(real.labels, real.num_classes, options.validation_share, _seed(options, repeat))
    return kept, held, np.flatnonzero(~np.isin(data.origin, held))


def _seed(options: StudyOptions, repeat: int) -> int:
    return int(np.random.SeedSequence([options.seed, repeat]).generate_state(1)[0])


def _train(options: StudyOptions, run: Run, material: Material, callback: Callable[[Run], None]) -> TrainedModel:
    seed = _seed(options, run.repeat)
    return train_segmenter(
        options.build(run.architecture, seed),
        material.training,
        material.validation,
        options.plan,
        seed=seed,
        device=options.device,
        augment=_augmentation(run.arm, material.training, options),
        callback=partial(callback, run),
    )


def _augmentation(arm: Arm, training: ImageSet, options: StudyOptions) -> Augmentation | None:
    usual = partial(usual_augmentation, num_classes=training.num_classes, vertical_flip=options.vertical_flip)
    chain: list[Augmentation] = []
    if arm.augmentation == "copy-paste":
        images = torch.from_numpy(training.images).permute(0, 3, 1, 2)
        chain.append(DefectBank(images, torch.from_numpy(training.labels.astype(np.int64)), training.num_classes).paste)
    if arm.augmentation == "usual" or options.augment_all:
        chain.append(usual)

    def augment(image: Tensor, label: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        for change in chain:
            image, label = change(image, label, generator)
        return image, label

    return augment if chain else None
