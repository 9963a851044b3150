"""The contract of a metric: what it measures on and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from evaluations.errors import EvaluationError
from evaluations.metrics.segmentation import plain
from evaluations.objects import LayoutSets
from evaluations.report.page import Section
from evaluations.report.sections import decimals
from evaluations.segmentation.segmenter import AgreementSegmenter
from evaluations.sets import Images, ImageSet, Indices, Labels
from evaluations.symmetry import apply_d4, d4_of, dihedral_views

Features = NDArray[np.floating]
Part = Literal["training", "test", "samples"]
Network = TypeVar("Network")
Scores = Mapping[str, NDArray[np.float64]]
"""By name, a number [N] for each sample."""

BATCH = 32  # images that go through a metric's network at a time


# ------------------------------------------------------------------------------------------------------- sets


@dataclass(frozen=True)
class FeatureExtractor:
    """A network as a function: (images [N, H, W, 3], text of the progress bar) -> features [N, D].

    description: one line for the report, different for each network.
    """

    description: str
    compute: Callable[[Images, str], Features]


@dataclass(frozen=True)
class MaskGroups:
    """The masks that have several samples: `sizes` has their number, `load` reads those of one mask, [K, H, W, 3].

    what: what they share, a "mask" or a "layout" of boxes.
    """

    sizes: tuple[int, ...]
    load: Callable[[int], Images]
    folder: str
    what: Literal["mask", "layout"] = "mask"


@dataclass(frozen=True)
class EvaluationSets:
    """Everything that metrics compare, at one size. `training` is None where no measurement needs it.

    origin, test_origin: [N] index of the training and of the test image whose mask a sample was made from, or -1.
    resampling: how images were resized, for the report. find_groups: reads which samples share a mask.
    donors: [N, M] of the training images whose defects or shapes a sample has, filled up with -1; None: `origin`
        says it. new_masks: [N] whether no real image has the mask of a sample. mask_flips: whether masks were turned
        upside down, and left to right. flip_pairs: classes that change places in mirrored images.
    has_masks: whether real images have label maps; else their pixels are ignored.
    layouts: the objects of all images, None where they are not measured.
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
    donors: Indices | None = None
    new_masks: NDArray[np.bool_] | None = None
    mask_flips: tuple[bool, bool] = (False, False)
    flip_pairs: Sequence[tuple[int, int]] = ()
    has_masks: bool = True
    layouts: LayoutSets | None = None
    _features: dict[tuple[str, Part, int], Features] = field(default_factory=dict, init=False, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of all images."""
        height, width = self.test.images.shape[1:3]
        return height, width

    @property
    def real(self) -> ImageSet:
        """All real images that were read."""
        return self.test if self.training is None else self.training.joined(self.test)

    def features(self, extractor: FeatureExtractor, part: Part, view: int = 0) -> Features:
        """Return the features [N, D] of one set under one of its symmetries, computed once for all metrics."""
        key = (extractor.description, part, view)
        if key not in self._features:
            images = np.ascontiguousarray(apply_d4(getattr(self, part).images, view))
            progress = f"features of {part}{'' if part == 'samples' else ' images'}"
            self._features[key] = extractor.compute(images, progress)
        return self._features[key]

    def training_views(self, extractor: FeatureExtractor) -> Features:
        """Return the features [V, T, D] of the training images under all their symmetries."""
        assert self.training is not None
        return np.stack([self.features(extractor, "training", view) for view in d4_of(self.training.images)])

    def triples(self, indices: Indices) -> list[tuple[Images, Labels, Images]]:
        """Return (real image of the mask, mask, sample) for the samples at `indices`."""
        samples = self.samples
        return [(self._real_of(index), samples.labels[index], samples.images[index]) for index in map(int, indices)]

    def _real_of(self, index: int) -> Images:
        """Return the real image [H, W, 3] of a sample's mask, turned as the mask was; gray if it is unknown."""
        label = self.samples.labels[index]
        if self.new_masks is not None and self.new_masks[index]:
            return np.full_like(self.samples.images[index], 128)
        for real, origin in ((self.training, int(self.origin[index])), (self.test, int(self.test_origin[index]))):
            if real is None or origin < 0:
                continue
            for symmetry, view in enumerate(dihedral_views(real.labels[[origin], ..., None])):
                if np.array_equal(view[0, ..., 0], label):
                    return apply_d4(real.images[origin], symmetry)
            return real.images[origin]
        return np.full_like(self.samples.images[index], 128)


# ------------------------------------------------------------------------------------------------------ metric


@dataclass(frozen=True)
class Measurement:
    """What a metric found: its entry in report.json, its section of the report, and lines to print.

    facts: (name, value) pairs for the head of the report. sample_scores: written under pictures of samples.
    """

    record: dict[str, Any]
    section: Section
    findings: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    sample_scores: Scores = field(default_factory=dict)


class Metric(ABC):
    """One measurement of the samples; `key` is the name of its entry in report.json."""

    key: ClassVar[str]

    @abstractmethod
    def measure(self, sets: EvaluationSets) -> Measurement:
        """Measure the sets; raises EvaluationError where they cannot be measured. Equal headings share a section."""


# -------------------------------------------------------------------------------------------- missing networks


@dataclass(frozen=True)
class Skipped:
    """Why something is not measured; `wanted` if the user asked for it, which calls for a warning."""

    reason: str
    wanted: bool = False

    def measurement(self, heading: str, name: str) -> Measurement:
        """Return the measurement that says so under `heading`."""
        return Measurement({"skipped": self.reason}, Section(heading, [f"{name}: {self.reason}."]))


NO_MASKS = Skipped("not measured: the real dataset has boxes and no masks")


@dataclass(frozen=True)
class LeftOut(Metric):
    """A measurement that is not made: its entry in report.json, `heading` and `name` in the report, and why."""

    entry: str
    heading: str
    name: str
    why: Skipped

    @property
    def key(self) -> str:  # type: ignore[override]
        return self.entry

    def measure(self, sets: EvaluationSets) -> Measurement:
        return self.why.measurement(self.heading, self.name)


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
        f"{name}: " + ", ".join(decimals(plain(values[int(i)])) for i in indices) for name, values in scores.items()
    )
