"""Distances between two sets of image features: Fréchet, kernel, and precision with recall.

Features are real arrays [N, D], one row for an image, and are taken in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from evaluations.errors import EvaluationError

Features = NDArray[np.floating]


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

    |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))        Heusel et al. 2017, eq. 6 (FID)

    with means m and covariances S (divided by N - 1). The last term needs no square root of a matrix. With the
    centred features A = (X1 - m1) / (N1 - 1)^(1/2) and B likewise, S1 = A^T A and S2 = B^T B. The products XY and YX
    have the same eigenvalues other than 0, so S1 S2 = A^T (A B^T B) has those of (A B^T B) A^T = M M^T with
    M = A B^T. These are the squared singular values of M; the trace of the root is their sum, the nuclear norm of M.
    Nothing here is ill-conditioned, so the result is right where covariances have no full rank (fewer images than D).

    A set with N > D goes by the factor R [D, D] of A = Q R instead: Q has orthonormal columns, and
    M = Q1 R1 R2^T Q2^T has the singular values of R1 R2^T. So the decomposition is of a matrix of at most D x D.

    Raises EvaluationError for a set of fewer than 2 images.
    """
    first, second = _checked(first, second, "the Fréchet distance (FID)")
    difference = first.mean(axis=0) - second.mean(axis=0)
    root1, root2 = _covariance_root(first), _covariance_root(second)
    cross = np.linalg.svd(root1 @ root2.T, compute_uv=False).sum()
    distance = difference @ difference + np.square(root1).sum() + np.square(root2).sum() - 2 * cross
    return max(0.0, float(distance))  # rounding may leave equal sets a little below 0


def kernel_distance(
    first: Features, second: Features, *, subset_size: int = 1000, subsets: int = 100, seed: int
) -> KernelDistance:
    """Return the unbiased squared MMD of two sets [N1, D] and [N2, D] with the kernel (x.y / D + 1)^3.

    Binkowski et al. 2018 (KID), as torch-fidelity computes it. It may be a little below 0.

    subset_size: images drawn of each set without replacement; at most as many as the smaller set has.
    subsets: how often they are drawn, from `seed` (0 or more, below 2^32). If each subset is the whole of both sets,
        one is drawn: its std is 0, which tells nothing about the uncertainty.

    Raises EvaluationError for a set of fewer than 2 images.
    """
    first, second = _checked(first, second, "the kernel distance (KID)")
    assert subset_size >= 2
    assert subsets >= 1
    size = min(subset_size, len(first), len(second))
    if size == len(first) == len(second):
        subsets = 1
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
    """Return precision and recall of `samples` [N1, D] against `real` [N2, D] by nearest neighbours.

    A set covers a ball around each of its images, up to its k-th nearest other one. Precision is the share of samples
    in the balls of the real images; recall is the share of real images in the balls of the samples.
    Kynkäänniemi et al. 2019, section 2, as torch-fidelity computes it. Their numbers are from features of VGG16; those
    from other features do not compare with them.

    k: at most one less than the images of the smaller set; a larger one is reduced to that.

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
