"""The contract of a metric: what it measures on, what it returns, and how the report shows it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from evaluations.errors import EvaluationError
from evaluations.report.page import Section
from evaluations.segmentation.segmenter import AgreementSegmenter
from evaluations.sets import Images, ImageSet, Indices, Labels
from evaluations.symmetry import SYMMETRIES, apply_d4, dihedral_views

Features = NDArray[np.floating]
Part = Literal["training", "test", "samples"]
Network = TypeVar("Network")
Result = TypeVar("Result")

BATCH = 32  # images that go through a metric's network at a time


# ------------------------------------------------------------------------------------------------------- sets


@dataclass(frozen=True)
class FeatureExtractor:
    """A network as a map (images [N, H, W, 3], what a progress bar says) -> features [N, D].

    description: one line for the report, different for each network.
    """

    description: str
    compute: Callable[[Images, str], Features]


@dataclass(frozen=True)
class MaskGroups:
    """The samples of each mask that has several of them; `load` reads those of one mask, uint8 [K, H, W, 3].

    sizes: K of each mask. folder: where the samples are, for the report.
    """

    sizes: tuple[int, ...]
    load: Callable[[int], Images]
    folder: str


@dataclass(frozen=True)
class EvaluationSets:
    """Everything that metrics compare, at one size; `training` is None where nothing that is asked for needs it.

    origin, test_origin: [N] index of the training and of the test image whose mask a sample was made from, or -1.
    resampling: how images came to their size, for the report. find_groups: finds samples of one mask when called.
    """

    training: ImageSet | None
    test: ImageSet
    samples: ImageSet
    class_names: tuple[str, ...]
    background: int
    origin: Indices
    test_origin: Indices
    resampling: str
    find_groups: Callable[[], MaskGroups]
    segmenter: AgreementSegmenter | None = None
    _features: dict[tuple[str, Part, int], Features] = field(default_factory=dict, init=False, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width at which everything is compared."""
        height, width = self.test.images.shape[1:3]
        return height, width

    @property
    def real(self) -> ImageSet:
        """All real images that were read."""
        return self.test if self.training is None else self.training.joined(self.test)

    def features(self, extractor: FeatureExtractor, part: Part, view: int = 0) -> Features:
        """Return the features [N, D] of one set under one of its dihedral views; computed once, for all metrics."""
        key = (extractor.description, part, view)
        if key not in self._features:
            images = getattr(self, part).images
            seen = np.ascontiguousarray(apply_d4(images, view))
            self._features[key] = extractor.compute(seen, f"features of {part}{'' if part == 'samples' else ' images'}")
        return self._features[key]

    def training_views(self, extractor: FeatureExtractor) -> Features:
        """Return the features [V, T, D] of all dihedral views of the training images."""
        assert self.training is not None
        count = sum(1 for _ in dihedral_views(self.training.images))
        return np.stack([self.features(extractor, "training", view) for view in range(count)])

    def triples(self, indices: Indices) -> list[tuple[Images, Labels, Images]]:
        """Return the real image of the mask, the mask and the sample, for each of the samples at `indices`."""
        samples = self.samples
        return [(self._real_of(index), samples.labels[index], samples.images[index]) for index in map(int, indices)]

    def _real_of(self, index: int) -> Images:
        """Return the real image [H, W, 3] of a sample's mask, turned as the mask was; gray where it is not known."""
        label = self.samples.labels[index]
        for real, origin in ((self.training, int(self.origin[index])), (self.test, int(self.test_origin[index]))):
            if real is None or origin < 0:
                continue
            for symmetry in range(len(SYMMETRIES)):
                turned = apply_d4(real.labels[origin][..., None], symmetry)[..., 0]
                if turned.shape == label.shape and (turned == label).all():
                    return np.ascontiguousarray(apply_d4(real.images[origin], symmetry))
            return real.images[origin]
        return np.full((*label.shape, 3), 128, np.uint8)


# ----------------------------------------------------------------------------------------------------- metric


@dataclass(frozen=True)
class Fact:
    """A line of the report's head; of all metrics' facts those of the lowest rank come first."""

    name: str
    value: str
    rank: int = 0


@dataclass(frozen=True)
class Measurement(Generic[Result]):
    """What a metric found: its entry in report.json, lines for people, and the result that its section shows.

    sample_scores: by name, a number [N] for each sample, written under its picture.
    """

    record: dict[str, Any]
    result: Result
    findings: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    sample_scores: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


class Metric(ABC, Generic[Result]):
    """One measurement of the samples; `key` is the name of its entry in report.json."""

    key: ClassVar[str]

    @property
    def skipped(self) -> Skipped | None:
        """Why nothing will be measured, where that is known beforehand."""
        return None

    @abstractmethod
    def measure(self, sets: EvaluationSets) -> Measurement[Result]:
        """Return what is found; raises EvaluationError where the sets cannot be measured."""

    @abstractmethod
    def section(self, measurement: Measurement[Result]) -> Section:
        """Return what the report shows; sections of the same heading are joined."""


# ----------------------------------------------------------------------------------------------- left out


@dataclass(frozen=True)
class Skipped:
    """Why something is not measured; `wanted` where the user asked for it, so that a warning is due."""

    reason: str
    wanted: bool = False

    def measurement(self) -> Measurement[Skipped]:
        """Return the measurement that says so."""
        return Measurement({"skipped": self.reason}, self)


def load_optional(option: str, weights: str, load: Callable[[str], Network]) -> Network | Skipped:
    """Return the network of `weights`, or why there is none: it is not wanted, or "auto" could not be downloaded.

    Raises EvaluationError for a file that is missing or does not fit.
    """
    if weights in ("", "none"):
        return Skipped(f'not measured: {option} is "none"')
    try:
        return load(weights)
    except EvaluationError as error:
        if weights != "auto":
            raise
        return Skipped(f"not measured: {error}", wanted=True)


def sample_captions(scores: Mapping[str, NDArray[np.float64]], indices: Indices) -> str:
    """Return the scores of the samples at `indices` as a caption."""
    return "; ".join(
        f"{name}: " + ", ".join(f"{values[int(i)]:.2f}" for i in indices) for name, values in scores.items()
    )
