"""Fidelity: FID, KID, precision and recall, distances between sets of Inception features.

Features are real arrays [N, D], one row for an image, with N at least 2. Computation is in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from evaluations.metrics.base import EvaluationSets, FeatureExtractor, Features, Measurement, Metric, Skipped
from evaluations.report.page import Section, Table

HEADING = "Distance to the real images"
ENOUGH_FOR_FID = 2048  # images: with fewer than it has dimensions the covariance lacks full rank


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
    """
    first, second = _checked(first, second)
    difference = first.mean(axis=0) - second.mean(axis=0)
    root1, root2 = _covariance_root(first), _covariance_root(second)
    # With S1 = A^T A and S2 = B^T B, S1 S2 has the nonzero eigenvalues of (A B^T)(A B^T)^T, so the trace of its root
    # is the sum of the singular values of A B^T. This is well-conditioned with fewer images than D, too.
    cross = np.linalg.svd(root1 @ root2.T, compute_uv=False).sum()
    distance = difference @ difference + np.square(root1).sum() + np.square(root2).sum() - 2 * cross
    return max(0.0, float(distance))  # rounding may leave equal sets a little below 0


def kernel_distance(
    first: Features, second: Features, *, subset_size: int = 1000, subsets: int = 100, seed: int
) -> KernelDistance:
    """Return the unbiased squared MMD of two sets [N1, D] and [N2, D] with the kernel (x.y / D + 1)^3.

    Binkowski et al. 2018 (KID), by torch-fidelity, over `subsets` draws of `subset_size` images, or of the smaller set.
    seed: 0..2^32 - 1.
    """
    first, second = _checked(first, second)
    size = min(subset_size, len(first), len(second))
    if size == len(first) == len(second):
        subsets = 1  # all draws would be equal, and their std of 0 would say nothing about the uncertainty
    options = {"kid_subsets": subsets, "kid_subset_size": size, "rng_seed": seed, "verbose": False}
    result = kid_features_to_metric(torch.tensor(first), torch.tensor(second), **options)
    return KernelDistance(result[KEY_METRIC_KID_MEAN], result[KEY_METRIC_KID_STD], size, subsets)


def precision_recall(samples: Features, real: Features, *, k: int = 3) -> PrecisionRecall:
    """Return precision and recall of `samples` [N1, D] against `real` [N2, D] by their k nearest neighbors.

    Kynkäänniemi et al. 2019, section 2, by torch-fidelity; k is at most one less than the images of the smaller set.
    """
    samples, real = _checked(samples, real)
    options = {"prc_neighborhood": min(k, len(samples) - 1, len(real) - 1), "verbose": False}
    result = prc_features_to_metric(torch.tensor(samples), torch.tensor(real), **options)
    return PrecisionRecall(result[KEY_METRIC_PRECISION], result[KEY_METRIC_RECALL])


def _covariance_root(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return A [min(N, D), D] such that A^T A is the covariance of the features [N, D]."""
    count, dimensions = features.shape
    root = (features - features.mean(axis=0)) / np.sqrt(count - 1)
    # A = Q R with orthonormal columns of Q has the same A^T A as R, which is at most [D, D].
    return np.linalg.qr(root, mode="r") if count > dimensions else root


def _checked(first: Features, second: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    for features in (first, second):
        assert features.ndim == 2
        assert len(features) >= 2, "a set needs at least 2 images"
        assert np.isfinite(features).all()
    return first, second


# ----------------------------------------------------------------------------------------------------- metric


@dataclass(frozen=True)
class Distance:
    """All distances of one set of `images` images from another of `against`."""

    images: int
    against: int
    kid: KernelDistance
    fid: float
    covered: PrecisionRecall

    @classmethod
    def between(cls, features: Features, real: Features, seed: int) -> Distance:
        """Return the distances of two sets of features [N, D]."""
        kid = kernel_distance(features, real, seed=seed % 2**32)
        covered = precision_recall(features, real)
        return cls(len(features), len(real), kid, frechet_distance(features, real), covered)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        counts = {"images": self.images, "against": self.against}
        return {**counts, "kid": self.kid._asdict(), "fid": self.fid, **self.covered._asdict()}

    def row(self, label: str) -> list[str]:
        """Return the row of the report's table."""
        kid, covered = self.kid, self.covered
        spread = f" ± {kid.std:.4f}" if kid.subsets > 1 else ""
        counts, shares = f"{self.images} / {self.against}", (f"{covered.precision:.2f}", f"{covered.recall:.2f}")
        return [label, counts, f"{kid.mean:.4f}{spread}", f"{self.fid:.1f}", *shares]


@dataclass(frozen=True)
class FidelityMetric(Metric):
    """FID, KID, precision and recall of the samples against the training or the test images."""

    key: ClassVar = "distances"

    network: FeatureExtractor | Skipped
    compare_with: Literal["training", "test"]
    seed: int

    def measure(self, sets: EvaluationSets) -> Measurement:
        """Return the distances of the samples and, if training images were read, those of the test images."""
        if isinstance(self.network, Skipped):
            return self.network.measurement(HEADING, "KID, FID, precision and recall")
        features = {
            part: sets.features(self.network, part)
            for part in ("training", "test", "samples")
            if getattr(sets, part) is not None
        }
        samples = Distance.between(features["samples"], features[self.compare_with], self.seed)
        against = f"{self.compare_with} images"
        record = {
            "features": self.network.description,
            "image_size": list(sets.size),
            "resampling": sets.resampling,
            "compared_with": self.compare_with,
            "samples": samples.to_json(),
        }
        finding = (
            f"KID {samples.kid.mean:.4f}, FID {samples.fid:.1f} of {samples.images} samples against {samples.against} "
            f"{against}"
        )
        rows = [samples.row(f"samples against {against}")]
        if "training" in features:
            test = Distance.between(features["test"], features["training"], self.seed)
            record["test"] = test.to_json()
            rows.append(test.row("test against training images"))
            finding += f" (the test against the training images: KID {test.kid.mean:.4f})"
        height, width = sets.size
        text = [
            f"{self.network.description}. {sets.resampling}: {width} x {height} pixels.",
            "FID, precision and recall depend on the number of images, which differs between the rows. Precision and "
            "recall use these features; published ones mostly use those of VGG16.",
        ]
        table = Table(["sets", "images", "KID", "FID", "precision", "recall"], rows)
        facts = (("KID, FID", f"{samples.kid.mean:.4f}, {samples.fid:.1f}"),)
        return Measurement(record, Section(HEADING, text, [table]), (finding,), _warnings(samples), facts)


def _warnings(samples: Distance) -> tuple[str, ...]:
    fewest = min(samples.images, samples.against)
    if fewest >= ENOUGH_FOR_FID:
        return ()
    return (
        f"FID is of {fewest} images where it needs {ENOUGH_FOR_FID}: it is biased upwards, so compare it only with "
        "one of as many images; read KID first",
    )
