"""Fidelity: FID, KID, precision and recall, distances between sets of Inception features.

Features are real arrays [N, D], one row for an image, and are taken in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from evaluations.errors import EvaluationError
from evaluations.metrics.base import EvaluationSets, Fact, Features, Measurement, Metric, Skipped
from evaluations.metrics.inception import InceptionFeatures
from evaluations.report.page import Section, Table

HEADING = "Distance to the real images"
ENOUGH_FOR_FID = 2048  # images: with fewer than it has dimensions the covariance has no full rank


# -------------------------------------------------------------------------------------------------- distances


class KernelDistance(NamedTuple):
    """KID: mean and standard deviation over `subsets` pairs of random subsets of `subset_size` images each."""

    mean: float
    std: float
    subset_size: int
    subsets: int


class PrecisionRecall(NamedTuple):
    """Precision: share of samples near real images. Recall: share of real images near samples. Both in 0..1."""

    precision: float
    recall: float


def frechet_distance(first: Features, second: Features) -> float:
    """Return the squared Fréchet distance of the Gaussians fitted to two sets [N1, D] and [N2, D]; 0 or more.

    |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)), Heusel et al. 2017, eq. 6 (FID), S divided by N - 1.
    Raises EvaluationError for a set of fewer than 2 images.
    """
    first, second = _checked(first, second, "the Fréchet distance (FID)")
    difference = first.mean(axis=0) - second.mean(axis=0)
    root1, root2 = _covariance_root(first), _covariance_root(second)
    # With S1 = A^T A and S2 = B^T B, S1 S2 has the eigenvalues of (A B^T)(A B^T)^T other than 0, so the trace of its
    # root is the sum of the singular values of A B^T. Well-conditioned with fewer images than D, too.
    cross = np.linalg.svd(root1 @ root2.T, compute_uv=False).sum()
    distance = difference @ difference + np.square(root1).sum() + np.square(root2).sum() - 2 * cross
    return max(0.0, float(distance))  # rounding may leave equal sets a little below 0


def kernel_distance(
    first: Features, second: Features, *, subset_size: int = 1000, subsets: int = 100, seed: int
) -> KernelDistance:
    """Return the unbiased squared MMD of two sets [N1, D] and [N2, D] with the kernel (x.y / D + 1)^3.

    Binkowski et al. 2018 (KID), by torch-fidelity, over `subsets` draws of `subset_size` images, or of the smaller set.
    seed: 0..2^32 - 1. Raises EvaluationError for a set of fewer than 2 images.
    """
    first, second = _checked(first, second, "the kernel distance (KID)")
    assert subset_size >= 2
    assert subsets >= 1
    size = min(subset_size, len(first), len(second))
    if size == len(first) == len(second):
        subsets = 1  # all would be equal; its std of 0 says nothing of the uncertainty
    result = kid_features_to_metric(
        torch.tensor(first),
        torch.tensor(second),
        kid_subsets=subsets,
        kid_subset_size=size,
        rng_seed=seed,
        verbose=False,
    )
    return KernelDistance(result[KEY_METRIC_KID_MEAN], result[KEY_METRIC_KID_STD], size, subsets)


def precision_recall(samples: Features, real: Features, *, k: int = 3) -> PrecisionRecall:
    """Return precision and recall of `samples` [N1, D] against `real` [N2, D] by their k nearest neighbors.

    Kynkäänniemi et al. 2019, section 2, by torch-fidelity; k is at most one less than the images of the smaller set.
    Raises EvaluationError for a set of fewer than 2 images.
    """
    samples, real = _checked(samples, real, "precision and recall")
    assert k >= 1
    result = prc_features_to_metric(
        torch.tensor(samples),
        torch.tensor(real),
        prc_neighborhood=min(k, len(samples) - 1, len(real) - 1),
        verbose=False,
    )
    return PrecisionRecall(result[KEY_METRIC_PRECISION], result[KEY_METRIC_RECALL])


def _covariance_root(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [min(N, D), D]: A such that A^T A is the covariance of the features [N, D]."""
    count, dimensions = features.shape
    root = (features - features.mean(axis=0)) / np.sqrt(count - 1)
    # A = Q R with orthonormal columns of Q has the same A^T A as R, which is at most [D, D].
    return np.linalg.qr(root, mode="r") if count > dimensions else root


def _checked(first: Features, second: Features, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    assert first.ndim == second.ndim == 2
    assert first.shape[1] == second.shape[1]
    if min(len(first), len(second)) < 2:
        raise EvaluationError(
            f"{metric} needs at least 2 images in each set, found {len(first)} and {len(second)}: add images"
        )
    assert np.isfinite(first).all()
    assert np.isfinite(second).all()
    return first, second


# ----------------------------------------------------------------------------------------------------- metric


@dataclass(frozen=True)
class Distance:
    """All distances of one set of `images` against another of `against`."""

    images: int
    against: int
    kid: KernelDistance
    fid: float
    covered: PrecisionRecall

    @classmethod
    def between(cls, features: Features, real: Features, seed: int) -> Distance:
        """Return the distances of two sets of features [N, D]."""
        return cls(
            len(features),
            len(real),
            kernel_distance(features, real, seed=seed % 2**32),
            frechet_distance(features, real),
            precision_recall(features, real),
        )

    def to_json(self) -> dict[str, Any]:
        """Return what json.dump takes."""
        counts = {"images": self.images, "against": self.against}
        return {**counts, "kid": self.kid._asdict(), "fid": self.fid, **self.covered._asdict()}


@dataclass(frozen=True)
class Fidelity:
    """Distances of the samples, and of the test from the training images where these were read; what they rest on."""

    features: str
    resampling: str
    size: tuple[int, int]
    compared_with: str
    samples: Distance
    test: Distance | None


@dataclass(frozen=True)
class FidelityMetric(Metric[Fidelity | Skipped]):
    """FID, KID, precision and recall of the samples against the training or the test images."""

    key: ClassVar = "distances"

    network: InceptionFeatures | Skipped
    compare_with: Literal["training", "test"]
    seed: int

    @property
    def skipped(self) -> Skipped | None:
        """Why there is no network."""
        return self.network if isinstance(self.network, Skipped) else None

    def measure(self, sets: EvaluationSets) -> Measurement[Fidelity | Skipped]:
        """Return the distances; the features are shared with other metrics."""
        if isinstance(self.network, Skipped):
            return self.network.measurement()
        extractor = self.network.extractor()
        training = None if sets.training is None else sets.features(extractor, "training")
        test, samples = sets.features(extractor, "test"), sets.features(extractor, "samples")
        real = test if self.compare_with == "test" else training
        assert real is not None
        found = Fidelity(
            self.network.description,
            sets.resampling,
            sets.size,
            self.compare_with,
            Distance.between(samples, real, self.seed),
            None if training is None else Distance.between(test, training, self.seed),
        )
        record = {
            "features": found.features,
            "image_size": list(found.size),
            "resampling": found.resampling,
            "compared_with": found.compared_with,
            "samples": found.samples.to_json(),
        }
        if found.test is not None:
            record["test"] = found.test.to_json()
        kid, fid = found.samples.kid.mean, found.samples.fid
        fact = Fact("KID, FID", f"{kid:.4f}, {fid:.1f}", rank=1)
        return Measurement(record, found, (_finding(found),), _warnings(found), (fact,))

    def section(self, measurement: Measurement[Fidelity | Skipped]) -> Section:
        """Return a table with a row for each pair of sets."""
        found = measurement.result
        if isinstance(found, Skipped):
            return Section(HEADING, [f"KID, FID, precision and recall: {found.reason}."])
        rows = [_row(f"samples against {found.compared_with} images", found.samples)]
        if found.test is not None:
            rows.append(_row("test against training images", found.test))
        height, width = found.size
        text = [
            f"{found.features}. {found.resampling}: {width} x {height} pixels.",
            "FID, precision and recall depend on how many images there are, in which rows differ. Precision "
            "and recall are of these features; published ones are mostly of VGG16's.",
        ]
        return Section(HEADING, text, [Table(["sets", "images", "KID", "FID", "precision", "recall"], rows)])


def _finding(found: Fidelity) -> str:
    yardstick = ""
    if found.test is not None:
        yardstick = f" (the test against the training images: KID {found.test.kid.mean:.4f})"
    samples = found.samples
    return (
        f"KID {samples.kid.mean:.4f}, FID {samples.fid:.1f} of {samples.images} samples against {samples.against} "
        f"{found.compared_with} images{yardstick}"
    )


def _warnings(found: Fidelity) -> tuple[str, ...]:
    fewest = min(found.samples.images, found.samples.against)
    if fewest >= ENOUGH_FOR_FID:
        return ()
    return (
        f"FID is of {fewest} images where it needs {ENOUGH_FOR_FID}: it is biased upwards and only to be compared "
        "with one of as many images; read KID first",
    )


def _row(label: str, found: Distance) -> list[str]:
    kid, covered = found.kid, found.covered
    return [
        label,
        f"{found.images} / {found.against}",
        f"{kid.mean:.4f}" + (f" ± {kid.std:.4f}" if kid.subsets > 1 else ""),
        f"{found.fid:.1f}",
        f"{covered.precision:.2f}",
        f"{covered.recall:.2f}",
    ]
