"""The training sets of a study: real training and validation images, and samples that leak neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evaluations.errors import EvaluationError
from evaluations.groups import Groups, numbered
from evaluations.sets import ImageSet, Indices, Labels
from evaluations.study.settings import Setting, StudyPlan


@dataclass(frozen=True)
class StudyData:
    """What the models of a study are trained and tested on.

    origin: [len(samples)] or [len(samples), M], indices of the training images whose masks a sample was made from, -1
        where unknown. others: other samples and their origins, by name. groups: of the training images, see `Groups`.
    """

    training: ImageSet
    test: ImageSet
    samples: ImageSet
    origin: Indices
    others: Mapping[str, tuple[ImageSet, Indices]] = field(default_factory=dict)
    groups: Groups | None = None

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
    train, validation, usable = _division(data, origin, plan, repeat)
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
            train, _, usable = _division(data, data.of(setting)[1], plan, repeat)
            wanted = 1 if setting.ratio is None else round(setting.ratio * len(train))
            if wanted > len(usable):
                lacking[setting.source] = max(lacking.get(setting.source, 0), wanted - len(usable))
    return lacking


def fewest_training(count: int, share: float) -> int:
    """Return the fewest of so many images, without groups, that `split_validation` leaves for training in any case."""
    # The images of a rarest class that validate are at most this share of them, as of 3 of 1 where `share` is 0.2.
    most = max(min(round(share * kind), kind - 1) / kind for kind in range(1, count + 1))
    return count - max(int(most * count + 1e-9), round(share * count), 1)


def _division(data: StudyData, origin: Indices, plan: StudyPlan, repeat: int) -> tuple[Indices, Indices, Indices]:
    """Return the real images that train, those that validate, and the samples that may train.

    Samples made from the mask of a validation image may not: a model would be chosen by masks that it has seen.
    """
    real, share = data.training, plan.validation_share
    train, validation = split_validation(real.labels, real.num_classes, share, plan.seed_of(repeat), data.groups)
    of_validation = np.isin(origin, validation).reshape(len(origin), -1).any(axis=1)
    return train, validation, np.flatnonzero(~of_validation)


def split_validation(
    labels: Labels, num_classes: int, share: float, seed: int, groups: Groups | None = None
) -> tuple[Indices, Indices]:
    """Return (training indices, validation indices) of label maps [N, H, W], neither empty; groups stay whole.

    Groups are sorted by the rarest class that they show, and `share` of each kind goes to validation, so that a rare
    class is in both where it can be; a class of one group stays in training, unless every group has such a class.
    EvaluationError if there is one group.
    """
    numbers = numbered(groups, len(labels))
    if (count := 1 + int(numbers.max())) < 2:
        found = f"makes one group of all {len(labels)} training images, of which some are to validate"
        raise EvaluationError("group_pattern", found, "leave it out, or correct it")
    shown = np.zeros((count, num_classes), bool)
    for number, label in zip(numbers, labels, strict=True):
        shown[number] |= np.isin(np.arange(num_classes), label)
    rarest = np.where(shown, shown.sum(0), count + 1).argmin(1)
    rng = np.random.default_rng([seed, len(labels)])
    chosen: list[int] = []
    for index in np.unique(rarest):
        kind = rng.permutation(np.flatnonzero(rarest == index))
        chosen += kind[: min(round(share * len(kind)), len(kind) - 1)].tolist()
    wanted = min(round(share * count), count - 1)
    if len(chosen) < wanted / 2 or not chosen:  # many classes of few groups give hardly any
        left = shown.sum(0) - shown[chosen].sum(0)  # groups of each class in training
        for group in rng.permutation(np.setdiff1d(np.arange(count), chosen)).tolist():
            if len(chosen) < max(wanted, 1) and (left[shown[group]] > 1).all():
                chosen.append(group)
                left -= shown[group]
    if not chosen:  # every group has a class of its own
        chosen = [int(rng.permutation(np.flatnonzero(rarest == np.bincount(rarest).argmax()))[0])]
    held = np.isin(numbers, chosen)
    return np.flatnonzero(~held), np.flatnonzero(held)
