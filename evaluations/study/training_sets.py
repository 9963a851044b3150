"""The training sets of a study: real training and validation images, and samples that leak neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evaluations.sets import ImageSet, Indices, Labels
from evaluations.study.settings import Setting, StudyPlan


@dataclass(frozen=True)
class StudyData:
    """What the models of a study are trained and tested on.

    origin: [len(samples)] or [len(samples), M], indices of the training images whose masks a sample was made from, -1
        where unknown. others: other samples and their origins, by name.
    """

    training: ImageSet
    test: ImageSet
    samples: ImageSet
    origin: Indices
    others: Mapping[str, tuple[ImageSet, Indices]] = field(default_factory=dict)

    def of(self, setting: Setting) -> tuple[ImageSet, Indices]:
        """Return the samples of a setting and their origins."""
        return self.others[setting.source] if setting.source else (self.samples, self.origin)

    def __post_init__(self) -> None:
        for samples, origin in ((self.samples, self.origin), *self.others.values()):
            assert len(origin) == len(samples)
        assert len(self.training) >= 2
        assert len(self.test) >= 1


@dataclass(frozen=True)
class TrainingSets:
    """The images of one run, and the numbers of real images and of samples among the training images."""

    training: ImageSet
    validation: ImageSet
    real: int
    synthetic: int


def training_sets(data: StudyData, setting: Setting, plan: StudyPlan, repeat: int) -> TrainingSets:
    """Return what a setting is trained on and chosen by in one repeat."""
    images, origin = data.of(setting)
    train, validation, usable = _division(data.training, origin, plan, repeat)
    wanted = len(usable) if setting.ratio is None else min(len(usable), round(setting.ratio * len(train)))
    # A permutation of all, so that a larger ratio contains the samples of a smaller one.
    chosen = np.random.default_rng([plan.seed, repeat, 1]).permutation(usable)[:wanted]
    samples, real = images.subset(np.sort(chosen)), data.training.subset(train)
    training = real.joined(samples) if setting.real else samples
    return TrainingSets(training, data.training.subset(validation), len(real) if setting.real else 0, len(samples))


def lacking_samples(data: StudyData, settings: Sequence[Setting], plan: StudyPlan, seeds: int) -> dict[str, int]:
    """Return how many more samples a source needs in some repeat, for the sources that have too few."""
    lacking: dict[str, int] = {}
    for repeat in range(seeds):
        for setting in settings:
            train, _, usable = _division(data.training, data.of(setting)[1], plan, repeat)
            wanted = 1 if setting.ratio is None else round(setting.ratio * len(train))
            if wanted > len(usable):
                lacking[setting.source] = max(lacking.get(setting.source, 0), wanted - len(usable))
    return lacking


def _division(real: ImageSet, origin: Indices, plan: StudyPlan, repeat: int) -> tuple[Indices, Indices, Indices]:
    """Return the real images that train, those that validate, and the samples that may train.

    Samples made from the mask of a validation image may not: a model would be chosen by masks that it has seen.
    """
    train, validation = split_validation(real.labels, real.num_classes, plan.validation_share, plan.seed_of(repeat))
    of_validation = np.isin(origin, validation).reshape(len(origin), -1).any(axis=1)
    return train, validation, np.flatnonzero(~of_validation)


def split_validation(labels: Labels, num_classes: int, share: float, seed: int) -> tuple[Indices, Indices]:
    """Return (training indices, validation indices) of label maps [N, H, W], neither empty.

    Images are grouped by the rarest class that they show, and `share` of each group goes to validation, so that a
    rare class is in both where it can be; a class of one image stays in training.
    """
    assert len(labels) >= 2
    shown = np.stack([np.isin(np.arange(num_classes), label) for label in labels])  # [N, C]
    rarest = np.where(shown, shown.sum(0), len(labels) + 1).argmin(1)
    rng = np.random.default_rng([seed, len(labels)])
    chosen: list[int] = []
    for index in np.unique(rarest):
        group = rng.permutation(np.flatnonzero(rarest == index))
        chosen += group[: min(round(share * len(group)), len(group) - 1)].tolist()
    if not chosen:
        chosen = [int(rng.permutation(np.flatnonzero(rarest == np.bincount(rarest).argmax()))[0])]
    wanted = min(round(share * len(labels)), len(labels) - 1)
    if len(chosen) < wanted / 2:  # many small groups give hardly any image
        others = np.setdiff1d(np.arange(len(labels)), chosen)
        chosen += rng.permutation(others)[: wanted - len(chosen)].tolist()
    held = np.zeros(len(labels), bool)
    held[chosen] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
