"""Near-duplicates: has the generator copied training images?

A sample is flagged where its nearest training image is much nearer than its next neighbors, compared with how training
images lie among themselves. evaluations/README.md has the rule, its sources and what it cannot see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from evaluations.metrics.base import EvaluationSets, FeatureExtractor, Measurement, Metric, Skipped
from evaluations.metrics.nearest import WHOLE, Nearest, Values, nearest, nearest_features
from evaluations.report import charts
from evaluations.report.page import Figure, Section, Sheet
from evaluations.report.sections import percent
from evaluations.sets import Indices
from evaluations.symmetry import SYMMETRIES, apply_d4

FACTOR = 0.4  # of the median ratio of the training images: evaluations/README.md tells how it was found
REPEATED = 0.2  # ratio below which a training image repeats another one, which says nothing about the others
MOSTLY_REPEATED = 0.5  # share of flagged training images above which the rule tells nothing

ByDistance = Mapping[str, Nearest]
"""The nearest training images of a set, by the name of the distance."""


@dataclass(frozen=True)
class NearDuplicates:
    """Which of N samples are near-duplicates; the fields of each are by the distance with the lowest score.

    measure: the name of that distance. score: [N], the ratio (see Nearest) over its threshold; below 1 it is flagged.
    training_share, real_share: flagged shares of the training images, held against all others, and of held-out ones.
    """

    measure: tuple[str, ...]
    distance: Values
    index: Indices
    symmetry: Indices
    ratio: Values
    score: Values
    thresholds: dict[str, float]
    training_share: float
    real_share: float

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """[N], True for near-duplicates."""
        return self.score < 1

    @property
    def share(self) -> float:
        """The share of near-duplicates among the samples, 0..1."""
        return float(self.flagged.mean())

    def closest(self, count: int) -> Indices:
        """Return the indices of the `count` samples (or all, if fewer) that are most like copies, the worst first."""
        return np.argsort(self.score, kind="stable")[:count]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file: the shares and thresholds, and a record for each sample in order."""
        samples = [
            {
                "measure": self.measure[sample],
                "distance": float(self.distance[sample]),
                "training_index": int(self.index[sample]),
                "symmetry": SYMMETRIES[self.symmetry[sample]],
                "ratio": float(self.ratio[sample]),
                "score": float(self.score[sample]),
                "suspected": bool(self.flagged[sample]),
            }
            for sample in range(len(self.score))
        ]
        shares = {"share": self.share, "real_suspects": self.real_share, "training_suspects": self.training_share}
        return {**shares, "thresholds": self.thresholds, "samples": samples}


def flag_near_duplicates(samples: ByDistance, training: ByDistance, held_out: ByDistance) -> NearDuplicates:
    """Flag the samples that are nearer to a training image than the ratios among training images allow.

    A sample is flagged if any of the distances says so; all mappings have the same ones.
    """
    assert samples.keys() == training.keys() == held_out.keys()
    thresholds = {name: _threshold(part.ratio) for name, part in training.items()}

    def scores_of(neighbors: ByDistance) -> Values:
        """Return [distances, N]: ratios over their thresholds."""
        return np.stack([neighbors[name].ratio / threshold for name, threshold in thresholds.items()])

    def share_of(neighbors: ByDistance) -> float:
        return float((scores_of(neighbors) < 1).any(0).mean())

    names, scores = list(thresholds), scores_of(samples)
    clearest = scores.argmin(0), np.arange(scores.shape[1])

    def chosen(field: str) -> NDArray[Any]:
        return np.stack([getattr(samples[name], field) for name in names])[clearest]

    return NearDuplicates(
        measure=tuple(names[number] for number in clearest[0]),
        distance=chosen("distance"),
        index=chosen("index"),
        symmetry=chosen("symmetry"),
        ratio=chosen("ratio"),
        score=scores[clearest],
        thresholds=thresholds,
        training_share=share_of(training),
        real_share=share_of(held_out),
    )


def _threshold(ratios: Values) -> float:
    """Return the ratio below which a sample is flagged, of those of the training images: see evaluations/README.md."""
    usual = ratios[ratios >= REPEATED]  # second exposures would make the usual ratio that of copies
    return FACTOR * float(np.median(usual)) if len(usual) else REPEATED


# ----------------------------------------------------------------------------------------------------- metric


@dataclass(frozen=True)
class NearDuplicatesMetric(Metric):
    """Samples that are near-duplicates of training images; `shown` pairs are in the report.

    network: compares features in addition to pixels; without it, the encoder of the sets' segmenter does.
    """

    key: ClassVar = "memorisation"

    network: FeatureExtractor | Skipped
    device: torch.device
    shown: int

    def measure(self, sets: EvaluationSets) -> Measurement:
        """Return the near-duplicates by distances of pixels and, where there is a network, of features."""
        assert sets.training is not None
        # Pixel distances are computed in float64, which MPS lacks.
        device = self.device if self.device.type == "cuda" else torch.device("cpu")
        samples, training, test = (part.images for part in (sets.samples, sets.training, sets.test))
        extractor = self._extractor(sets)
        print(f"looking for {len(training)} training images among {len(samples)} samples", flush=True)
        distances, held_out = (nearest(images, training, device=device) for images in (samples, test))
        yardstick = nearest(training, training, leave_one_out=True, device=device)
        if extractor is not None:
            views = sets.training_views(extractor)
            distances |= nearest_features(sets.features(extractor, "samples"), views)
            held_out |= nearest_features(sets.features(extractor, "test"), views)
            yardstick |= nearest_features(views[0], views, leave_one_out=True)
        result = flag_near_duplicates(distances, yardstick, held_out)
        record = {"features": extractor.description if extractor is not None else "none", **result.to_json()}
        for entry, sample in zip(record["samples"], sets.samples.names, strict=True):
            entry["image"], entry["training_image"] = sample, sets.training.names[entry["training_index"]]
        share = f"{percent(result.share)} %"
        finding = (
            f"suspected copies of training images: {int(result.flagged.sum())} of {len(samples)} samples ({share}; of "
            f"the real test images the same rule flags {percent(result.real_share)} %)"
        )
        facts = (("Suspected copies", f"{share} (real test images {percent(result.real_share)} %)"),)
        chart = charts.distance_histogram(
            yardstick[WHOLE].distance,
            distances[WHOLE].distance,
            "distance to the nearest training image, gray levels",
        )
        figures = [Figure("Nearest training images", chart), self._sheet(result, sets)]
        section = Section("Copies of training images", _text(result, record["features"]), figures=figures)
        return Measurement(record, section, (finding,), _warnings(result), facts)

    def _extractor(self, sets: EvaluationSets) -> FeatureExtractor | None:
        segmenter = sets.segmenter
        if not isinstance(self.network, Skipped):
            return self.network
        if segmenter is None or segmenter.features is None:
            return None
        compute, origin = segmenter.features, "elsewhere" if segmenter.external else "on the real images"
        return FeatureExtractor(
            f"encoder of the segmenter trained {origin}, averaged over pixels", lambda images, progress: compute(images)
        )

    def _sheet(self, result: NearDuplicates, sets: EvaluationSets) -> Sheet:
        assert sets.training is not None
        samples, training, closest = sets.samples.images, sets.training.images, result.closest(self.shown)
        pairs = [(samples[i], apply_d4(training[result.index[i]], int(result.symmetry[i]))) for i in closest]
        scores = [f"{result.score[i]:.2f}" + (" (suspected)" if result.flagged[i] else "") for i in closest]
        caption = "Training images are turned as they match best. Below 1 a sample is suspected: " + ", ".join(scores)
        return Sheet("Closest pairs", pairs, ("sample", "training image"), caption)


def _text(result: NearDuplicates, features: str) -> list[str]:
    return [
        f"{int(result.flagged.sum())} of {len(result.score)} samples are suspected copies of a training image: much "
        "nearer to one than to its neighbors, compared with how training images lie among themselves, flips and turns "
        f"included. The same rule flags {percent(result.real_share)} % of the real test images and "
        f"{percent(result.training_share)} % of the training images among the others: near-duplicates in the data "
        "alone give as many.",
        f"Distances: of pixels (whole image, and its best three quarters); features: {features}.",
    ]


def _warnings(result: NearDuplicates) -> tuple[str, ...]:
    count = int(result.flagged.sum())
    if result.training_share > MOSTLY_REPEATED:
        return ("most training images nearly repeat another one: the rule for copies cannot be used on this data",)
    if count and result.share > result.real_share:
        return (f"{count} samples are suspected copies of training images: look at the closest pairs in the report",)
    return ()
