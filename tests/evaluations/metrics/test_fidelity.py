"""Distances of feature sets, against exact values, definitions in many digits, and slow loops."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from evaluations.metrics.fidelity import frechet_distance, kernel_distance, precision_recall

Array = NDArray[np.float64]


def rotation(dimensions: int, seed: int = 0) -> Array:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dimensions, dimensions)))[0]


def crossed(spreads: Array) -> Array:
    """Points on the axes, [2 D, D], of mean 0 and covariance diag(spreads)."""
    reach = np.diag(np.sqrt(spreads * (2 * len(spreads) - 1) / 2))
    return np.concatenate([reach, -reach])


def draws(count: int, dimensions: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, dimensions)) * np.linspace(0.1, 2, dimensions) + rng.normal(size=dimensions)


# ---------------------------------------------------------------------------------------------------- Fréchet


@pytest.mark.parametrize("dimensions", [3, 40])
def test_frechet_of_commuting_covariances(dimensions: int) -> None:
    """Dowson and Landau 1982: |m1 - m2|^2 + sum of (sqrt(s1) - sqrt(s2))^2."""
    rng = np.random.default_rng(1)
    spread1, spread2 = rng.uniform(0.1, 4, (2, dimensions))
    spread1[0] = 0  # a direction without any variance
    shift, turn = rng.normal(size=dimensions), rotation(dimensions)
    expected = shift @ shift + np.square(np.sqrt(spread1) - np.sqrt(spread2)).sum()
    assert frechet_distance(crossed(spread1) @ turn, (crossed(spread2) + shift) @ turn) == pytest.approx(expected)


def test_frechet_by_hand() -> None:
    """Variances 2 and 8, means 0 and 3 on one axis: 9 + 2 + 8 - 2 * 4."""
    assert frechet_distance([[-1.0], [1.0]], [[1.0], [5.0]]) == pytest.approx(11)


def test_frechet_of_sets_that_vary_in_different_directions() -> None:
    """S1 S2 = 0, so that nothing is taken off the traces; 40 and 50 images in 512 dimensions."""
    rng, turn = np.random.default_rng(2), rotation(512)
    first, second = rng.normal(size=(40, 200)) @ turn[:200], rng.normal(size=(50, 312)) @ turn[200:] + 0.3
    shift = first.mean(axis=0) - second.mean(axis=0)
    expected = shift @ shift + first.var(axis=0, ddof=1).sum() + second.var(axis=0, ddof=1).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_planes_within_512_dimensions() -> None:
    """For 2 x 2, tr (S1 S2)^(1/2) = sqrt(tr(S1 S2) + 2 sqrt(det S1 det S2)); 40 images on one plane."""
    rng, plane = np.random.default_rng(3), rotation(512)[:2]
    first, second = (
        rng.normal(size=(40, 2)) @ [[1, 0.7], [0, 0.3]],
        rng.normal(size=(40, 2)) @ [[0.2, -0.5], [0, 2]] + 1,
    )
    s1, s2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    assert np.abs(s1 @ s2 - s2 @ s1).max() > 0.1
    shift = first.mean(axis=0) - second.mean(axis=0)
    root = np.sqrt(np.trace(s1 @ s2) + 2 * np.sqrt(np.linalg.det(s1) * np.linalg.det(s2)))
    expected = shift @ shift + np.trace(s1) + np.trace(s2) - 2 * root
    assert frechet_distance(first @ plane, second @ plane) == pytest.approx(expected, rel=1e-9)


def centered(features: NDArray[np.integer]) -> tuple[mpmath.matrix, mpmath.matrix]:
    """The mean [1, D] and the centered rows over sqrt(N - 1) [N, D], in mpmath's digits."""
    rows, count = mpmath.matrix(features.tolist()), len(features)
    mean = mpmath.matrix([[mpmath.fsum(rows[:, column]) / count for column in range(rows.cols)]])
    spread = mpmath.matrix(
        [[(rows[i, j] - mean[j]) / mpmath.sqrt(count - 1) for j in range(rows.cols)] for i in range(count)]
    )
    return mean, spread


def squares(matrix: mpmath.matrix) -> mpmath.mpf:
    return mpmath.fsum(value**2 for value in matrix)


def root_trace(matrix: mpmath.matrix) -> mpmath.mpf:
    return mpmath.fsum(mpmath.sqrt(abs(value)) for value in mpmath.eigsy(matrix, eigvals_only=True))


@pytest.mark.parametrize(("count1", "count2"), [(4, 6), (6, 30), (30, 5), (20, 30)])
def test_frechet_is_its_definition_in_60_digits(count1: int, count2: int) -> None:
    """tr (S1^(1/2) S2 S1^(1/2))^(1/2) from 9 x 9 covariances, of full rank and not."""
    rng = np.random.default_rng(4)
    first, second = rng.integers(-9, 10, (count1, 9)), rng.integers(-5, 16, (count2, 9))
    with mpmath.workdps(60):
        (mean1, spread1), (mean2, spread2) = centered(first), centered(second)
        values, vectors = mpmath.eigsy(spread1.T * spread1)
        root = vectors * mpmath.diag([mpmath.sqrt(abs(value)) for value in values]) * vectors.T
        cross = root_trace(root * (spread2.T * spread2) * root)
        expected = float(squares(mean1 - mean2) + squares(spread1) + squares(spread2) - 2 * cross)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-10)


def test_frechet_of_40_images_in_512_dimensions() -> None:
    """Against the eigenvalues of S1 S2, by those of the 40 x 40 matrix that has the same ones, in 30 digits."""
    rng = np.random.default_rng(5)
    basis = rng.integers(-3, 4, (60, 512))
    first, second = rng.integers(-5, 6, (40, 60)) @ basis, rng.integers(-5, 6, (40, 60)) @ basis + 2
    exact1, exact2 = (40 * features - features.sum(axis=0) for features in (first, second))  # whole numbers
    cross = exact1 @ exact2.T  # no rounding: below 2^53
    with mpmath.workdps(30):
        product = mpmath.matrix(cross.tolist())
        root = root_trace(product * product.T) / (40**2 * 39)
        traces = sum(mpmath.mpf(int((exact**2).sum())) for exact in (exact1, exact2)) / (40**2 * 39)
        shift = mpmath.mpf(int(((first - second).sum(axis=0) ** 2).sum())) / 40**2
        expected = float(shift + traces - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(("count1", "count2"), [(300, 200), (50, 40)])
def test_frechet_equals_torch_fidelity(count1: int, count2: int) -> None:
    first, second = draws(count1, 24, 6), draws(count2, 24, 7)
    statistics = [fid_features_to_statistics(torch.tensor(features)) for features in (first, second)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dimensions", [8, 100])
def test_frechet_knows_no_order_place_or_direction(dimensions: int) -> None:
    first, second = draws(30, dimensions, 8), draws(40, dimensions, 9)
    distance = frechet_distance(first, second)
    assert distance > 1
    assert frechet_distance(second, first) == pytest.approx(distance)
    assert frechet_distance(first[::-1], second) == pytest.approx(distance)
    assert frechet_distance(first + 7, second + 7) == pytest.approx(distance)
    turn = rotation(dimensions)
    assert frechet_distance(first @ turn, second @ turn) == pytest.approx(distance)
    assert frechet_distance(3 * first, 3 * second) == pytest.approx(9 * distance)


@pytest.mark.parametrize(("count", "dimensions"), [(30, 512), (200, 16), (2, 3)])
def test_frechet_of_a_set_with_itself_is_zero(count: int, dimensions: int) -> None:
    features = draws(count, dimensions, 10)
    assert 0 <= frechet_distance(features, features) < 1e-10
    assert frechet_distance(features, features + 0.5) == pytest.approx(dimensions / 4)


def test_frechet_of_float32_is_computed_in_float64() -> None:
    features = draws(50, 20, 11).astype(np.float32) + np.float32(1000)
    assert 0 <= frechet_distance(features, features[::-1]) < 1e-9


# ----------------------------------------------------------------------------------------------------- kernel


def slow_mmd(first: Array, second: Array) -> float:
    """Gretton et al. 2012, eq. 3, term by term."""

    def kernel(x: Array, y: Array) -> float:
        return (float(x @ y) / len(x) + 1) ** 3

    n1, n2 = len(first), len(second)
    within1 = sum(kernel(first[i], first[j]) for i in range(n1) for j in range(n1) if i != j) / (n1 * (n1 - 1))
    within2 = sum(kernel(second[i], second[j]) for i in range(n2) for j in range(n2) if i != j) / (n2 * (n2 - 1))
    between = sum(kernel(x, y) for x in first for y in second) / (n1 * n2)
    return within1 + within2 - 2 * between


def test_kernel_of_whole_sets_is_the_slow_sum() -> None:
    first, second = draws(25, 6, 12), draws(25, 6, 13)
    found = kernel_distance(first, second, seed=0)
    assert found.mean == pytest.approx(slow_mmd(first, second), rel=1e-10)
    assert found.std == 0
    assert (found.subset_size, found.subsets) == (25, 1)


def test_kernel_averages_over_subsets() -> None:
    """The mean over random subsets is unbiased for that of all images."""
    first, second = draws(40, 6, 14), draws(30, 6, 15)
    found = kernel_distance(first, second, subset_size=10, subsets=400, seed=3)
    assert (found.subset_size, found.subsets) == (10, 400)
    assert found.std > 0
    assert abs(found.mean - slow_mmd(first, second)) < 4 * found.std / np.sqrt(400)
    assert found == kernel_distance(first, second, subset_size=10, subsets=400, seed=3)
    assert found != kernel_distance(first, second, subset_size=10, subsets=400, seed=4)
    assert kernel_distance(first, second, subsets=7, seed=0)[2:] == (30, 7)


def test_kernel_of_one_distribution_is_near_zero() -> None:
    features = np.random.default_rng(16).normal(size=(600, 12))
    near = kernel_distance(features[:300], features[300:], seed=0).mean
    assert abs(near) < 0.01
    assert kernel_distance(features[:300], features[300:] + 0.5, seed=0).mean > 0.1


# ---------------------------------------------------------------------------------------- precision and recall


def slow_share_covered(points: Array, covering: Array, k: int) -> float:
    def covered(point: Array) -> bool:
        for i, center in enumerate(covering):
            others = sorted(np.linalg.norm(center - other) for j, other in enumerate(covering) if j != i)
            if np.linalg.norm(point - center) <= others[k - 1]:
                return True
        return False

    return float(np.mean([covered(point) for point in points]))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_are_the_slow_ones(k: int) -> None:
    rng = np.random.default_rng(17)
    samples, real = rng.normal(size=(30, 4)), rng.normal(size=(40, 4)) * 1.5 + 0.3
    found = precision_recall(samples, real, k=k)
    assert found.precision == pytest.approx(slow_share_covered(samples, real, k))
    assert found.recall == pytest.approx(slow_share_covered(real, samples, k))
    assert found.precision != found.recall


def test_precision_and_recall_of_known_cases() -> None:
    rng = np.random.default_rng(18)
    real = rng.normal(size=(400, 3))
    real[200:] += 20  # two modes
    alike = rng.normal(size=(400, 3))
    alike[200:] += 20
    assert min(precision_recall(alike, real)) > 0.9
    assert precision_recall(real + 1000, real) == (0, 0)
    precision, recall = precision_recall(alike[:200], real)  # the second mode is never drawn
    assert precision > 0.9
    assert 0.4 < recall <= 0.5
    precision, recall = precision_recall(np.concatenate([alike, alike + 500]), real)  # half the samples are wrong
    assert 0.4 < precision <= 0.5
    assert recall > 0.9


@pytest.mark.parametrize(("count", "k"), [(2, 1), (3, 2), (4, 3)])
def test_neighbors_are_no_more_than_there_are(count: int, k: int) -> None:
    samples, real = draws(count, 5, 19), draws(50, 5, 19)
    assert precision_recall(samples, real, k=3) == precision_recall(samples, real, k=k)
    assert precision_recall(real, samples, k=30).precision == pytest.approx(
        slow_share_covered(real, samples, count - 1)
    )


# ----------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "metric", [frechet_distance, lambda a, b: kernel_distance(a, b, seed=0), precision_recall], ids=["FID", "KID", "PR"]
)
@pytest.mark.parametrize("counts", [(1, 5), (5, 1), (0, 5)])
def test_one_image_is_no_set(metric, counts: tuple[int, int]) -> None:
    with pytest.raises(AssertionError, match="at least 2 images"):
        metric(np.zeros((counts[0], 4)), np.zeros((counts[1], 4)))
