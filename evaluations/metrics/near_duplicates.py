"""Near-duplicates: has the generator copied training images?

A sample is flagged where its nearest training image is much nearer than its next neighbors, compared with how training
images lie among themselves. evaluations/README.md has the rule, its sources and what it cannot see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from evaluations.metrics.base import EvaluationSets, Fact, FeatureExtractor, Measurement, Metric, Skipped
from evaluations.metrics.inception import InceptionFeatures
from evaluations.metrics.nearest import WHOLE, Nearest, Values, nearest, nearest_features
from evaluations.report import charts
from evaluations.report.page import Figure, Section, Sheet, Tile
from evaluations.report.sections import percent
from evaluations.sets import Indices
from evaluations.symmetry import SYMMETRIES, apply_d4

FACTOR = 0.4  # of the median ratio of the training images: evaluations/README.md tells how it was found
MOSTLY_REPEATED = 0.5  # share of training images that are flagged themselves, from which the rule says nothing


@dataclass(frozen=True)
class NearDuplicates:
    """Which of N samples are near-duplicates, each by the distance (`measure`) that speaks most clearly for it.

    score: [N], the ratio (see Nearest) over its threshold; below 1 the sample is flagged. training_share, real_share:
    shares of the training images, held against all others, and of held-out real images that are flagged.
    """

    measure: tuple[str, ...]
    distance: Values
    index: Indices
    symmetry: Indices
    ratio: Values
    score: Values
    thresholds: dict[str, float]
    training_share: float
    real_share: float | None

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """[N], True for near-duplicates."""
        return self.score < 1

    @property
    def share(self) -> float:
        """The share of near-duplicates among the samples, 0..1."""
        return float(self.flagged.mean())

    def to_json(self) -> dict[str, Any]:
        """Return what json.dump takes: the shares and thresholds, and a record for each sample in order."""
        return {
            "share": self.share,
            "real_suspects": self.real_share,
            "training_suspects": self.training_share,
            "thresholds": dict(self.thresholds),
            "samples": [self._record(sample) for sample in range(len(self.score))],
        }

    def _record(self, sample: int) -> dict[str, Any]:
        return {
            "measure": self.measure[sample],
            "distance": float(self.distance[sample]),
            "training_index": int(self.index[sample]),
            "symmetry": SYMMETRIES[self.symmetry[sample]],
            "ratio": float(self.ratio[sample]),
            "score": float(self.score[sample]),
            "suspected": bool(self.flagged[sample]),
        }


# -------------------------------------------------------------------------------------------------- the rule


def flag_near_duplicates(
    found: Mapping[str, Nearest], training: Mapping[str, Nearest], held_out: Mapping[str, Nearest] | None = None
) -> NearDuplicates:
    """Return which samples are nearer to a training image than the ratios among training images allow.

    All mappings are by the names of the distances: join the results of nearest and nearest_features to have both. A
    sample is flagged if any of them says so.
    """
    assert found.keys() == training.keys()
    assert held_out is None or held_out.keys() == found.keys()
    thresholds = {name: FACTOR * float(np.median(part.ratio)) for name, part in training.items()}
    names, scores = list(found), _scores(found, thresholds)
    clearest, samples = scores.argmin(0), np.arange(scores.shape[1])

    def chosen(field: str) -> NDArray[Any]:
        return np.stack([getattr(found[name], field) for name in names])[clearest, samples]

    return NearDuplicates(
        measure=tuple(names[number] for number in clearest),
        distance=chosen("distance"),
        index=chosen("index"),
        symmetry=chosen("symmetry"),
        ratio=chosen("ratio"),
        score=scores[clearest, samples],
        thresholds=thresholds,
        training_share=_share(_scores(training, thresholds)),
        real_share=None if held_out is None else _share(_scores(held_out, thresholds)),
    )


def _scores(found: Mapping[str, Nearest], thresholds: Mapping[str, float]) -> Values:
    """Return [measures, N]: ratios over their thresholds."""
    return np.stack([found[name].ratio / thresholds[name] for name in found])


def _share(scores: Values) -> float:
    return float((scores < 1).any(0).mean())


def closest_pairs(result: NearDuplicates, count: int) -> Indices:
    """Return the indices of the `count` samples (or all, if fewer) that are most like copies, the worst first."""
    return np.argsort(result.score, kind="stable")[:count]


# ----------------------------------------------------------------------------------------------------- metric


@dataclass(frozen=True)
class NearDuplicatesFound:
    """The near-duplicates with the distances they were found by, the network of features, and the closest pairs.

    samples, training: distances [N] and [T] of whole images to the nearest training image, and to the nearest other.
    pairs: (sample, its nearest training image turned alike).
    """

    result: NearDuplicates
    features: str
    samples: Values
    training: Values
    closest: Indices
    pairs: Sequence[tuple[Tile, ...]]


@dataclass(frozen=True)
class NearDuplicatesMetric(Metric[NearDuplicatesFound]):
    """Samples that are near-duplicates of training images; `shown` pairs are in the report.

    network: whose features are compared beside pixels; where it is left out, the encoder of the sets' segmenter.
    """

    key: ClassVar = "memorisation"

    network: InceptionFeatures | Skipped
    device: torch.device
    shown: int

    def measure(self, sets: EvaluationSets) -> Measurement[NearDuplicatesFound]:
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
        closest = closest_pairs(result, self.shown)
        found = NearDuplicatesFound(
            result,
            extractor.description if extractor is not None else "none",
            distances[WHOLE].distance,
            yardstick[WHOLE].distance,
            closest,
            [(samples[i], apply_d4(training[result.index[i]], int(result.symmetry[i]))) for i in closest],
        )
        return Measurement(_record(found, sets), found, (_finding(result),), tuple(_warnings(result)), (_fact(result),))

    def _extractor(self, sets: EvaluationSets) -> FeatureExtractor | None:
        segmenter = sets.segmenter
        if not isinstance(self.network, Skipped):
            return self.network.extractor()
        if segmenter is None or segmenter.features is None:
            return None
        compute, origin = segmenter.features, "elsewhere" if segmenter.external else "on the real images"
        return FeatureExtractor(
            f"encoder of the segmenter trained {origin}, averaged over pixels", lambda images, progress: compute(images)
        )

    def section(self, measurement: Measurement[NearDuplicatesFound]) -> Section:
        """Return the shares, the distribution of distances, and the closest pairs."""
        found = measurement.result
        result = found.result
        text = [
            f"{int(result.flagged.sum())} of {len(result.score)} samples are suspected copies of a training image: "
            "much nearer to one than to its neighbors, compared with how training images lie among themselves, flips "
            f"and turns included. The same rule flags {percent(result.real_share)} % of the real test images and "
            f"{percent(result.training_share)} % of the training images among the others: what near-duplicates in "
            "the data alone give.",
            f"Distances: of pixels (whole image, and its best three quarters); features: {found.features}.",
        ]
        chart = charts.distance_histogram(
            found.training, found.samples, "distance to the nearest training image, gray levels"
        )
        scores = [f"{result.score[i]:.2f}" + (" (suspected)" if result.flagged[i] else "") for i in found.closest]
        caption = "Training images are turned as they match best. Below 1 a sample is suspected: " + ", ".join(scores)
        figures = [
            Figure("Nearest training images", chart),
            Sheet("Closest pairs", found.pairs, ("sample", "training image"), caption),
        ]
        return Section("Copies of training images", text, figures=figures)


def _record(found: NearDuplicatesFound, sets: EvaluationSets) -> dict[str, Any]:
    assert sets.training is not None
    record = {"features": found.features, **found.result.to_json()}
    for entry, sample in zip(record["samples"], sets.samples.names, strict=True):
        entry["image"], entry["training_image"] = sample, sets.training.names[entry["training_index"]]
    return record


def _finding(result: NearDuplicates) -> str:
    return (
        f"suspected copies of training images: {int(result.flagged.sum())} of {len(result.score)} samples "
        f"({100 * result.share:.1f} %; of the real test images the same rule flags "
        f"{100 * (result.real_share or 0.0):.1f} %)"
    )


def _warnings(result: NearDuplicates) -> list[str]:
    count = int(result.flagged.sum())
    if result.training_share > MOSTLY_REPEATED:
        return ["most training images nearly repeat another one: the rule for copies is of no use here"]
    if count and result.share > (result.real_share or 0.0):
        return [f"{count} samples are suspected copies of training images: look at the closest pairs in the report"]
    return []


def _fact(result: NearDuplicates) -> Fact:
    return Fact("Suspected copies", f"{100 * result.share:.1f} % (real test images {percent(result.real_share)} %)")
