"""Pasting and Poisson blending: against a dense solve, and where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from evaluations.blending import paste, poisson_blend

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]
NEIGHBORS = ((-1, 0), (1, 0), (0, -1), (0, 1))


def noise(*shape: int, seed: int = 0) -> Values:
    return np.random.default_rng(seed).uniform(0, 255, shape)


def blob(height: int, width: int, seed: int = 0) -> Mask:
    return np.random.default_rng(seed).random((height, width)) < 0.5


def inner(height: int, width: int, seed: int = 0) -> Mask:
    """Return a mask that touches no side of its box."""
    mask = np.zeros((height, width), bool)
    mask[1:-1, 1:-1] = blob(height - 2, width - 2, seed)
    return mask


def dense(good: Values, patch: Values, mask: Mask, top: int, left: int) -> Values:
    """Solve equation 7 of Pérez et al. 2003 for a gray image, pair by pair."""
    height, width = mask.shape
    pixels = [(y + top, x + left) for y, x in np.argwhere(mask)]
    matrix, right = np.zeros((len(pixels), len(pixels))), np.zeros(len(pixels))
    for p, (y, x) in enumerate(pixels):
        for down, across in NEIGHBORS:
            q = (y + down, x + across)
            if not (0 <= q[0] < good.shape[0] and 0 <= q[1] < good.shape[1]):
                continue
            matrix[p, p] += 1
            in_patch = top <= q[0] < top + height and left <= q[1] < left + width
            v = patch[y - top, x - left] - patch[q[0] - top, q[1] - left] if in_patch else 0
            right[p] += v
            if q in pixels:
                matrix[p, pixels.index(q)] -= 1
            else:
                right[p] += good[q]
    result = good.copy()
    result[tuple(np.transpose(pixels))] = np.linalg.solve(matrix, right)
    return result


# ------------------------------------------------------------------------------------------------ Poisson blending


@pytest.mark.parametrize(
    ("top", "left"), [(3, 4), (0, 0), (8, 9), (0, 5), (2, 9)], ids=["inside", "corner", "far corner", "top", "right"]
)
def test_it_is_what_a_dense_solve_gives(top: int, left: int) -> None:
    good, patch = noise(14, 16), noise(6, 7, seed=1)
    for seed in range(3):
        mask = blob(6, 7, seed)
        found = poisson_blend(good, patch, mask, top, left)
        np.testing.assert_allclose(found, dense(good, patch, mask, top, left), atol=1e-8)


def test_channels_are_blended_one_by_one() -> None:
    good, patch, mask = noise(12, 12, 3), noise(6, 7, 3, seed=1), blob(6, 7)
    found = poisson_blend(good, patch, mask, 2, 3)
    for channel in range(3):
        alone = poisson_blend(good[..., channel], patch[..., channel], mask, 2, 3)
        np.testing.assert_allclose(found[..., channel], alone, atol=1e-9)


def test_the_good_image_and_a_constant_give_the_good_image() -> None:
    good = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    for top, left in ((0, 0), (5, 6), (9, 14)):
        patch = good[top : top + 11, left : left + 10] + np.array([40.0, -30, 7])
        mask = inner(11, 10)
        np.testing.assert_array_equal(poisson_blend(good, patch, mask, top, left), good)
        exact = poisson_blend(good.astype(float), patch, mask, top, left)
        np.testing.assert_allclose(exact, good, atol=1e-9)


def test_without_gradients_a_harmonic_image_comes_back() -> None:
    y, x = np.mgrid[:30, :40].astype(float)
    harmonic = x**2 - y**2 + 3 * x * y - 5 * x + 700  # of the discrete Laplacian, too
    mask = inner(16, 20)
    torn = harmonic.copy()
    torn[7:23, 9:29][mask] = -5
    np.testing.assert_allclose(poisson_blend(torn, np.zeros((16, 20)), mask, 7, 9), harmonic, atol=1e-8)


def test_without_gradients_nothing_exceeds_the_rim() -> None:
    good, mask = noise(20, 20), blob(12, 12)
    found = poisson_blend(good, np.full((12, 12), 9.0), mask, 4, 4)
    hole = np.zeros((20, 20), bool)
    hole[4:16, 4:16] = mask
    rim = good[ndimage.binary_dilation(hole) & ~hole]
    assert rim.min() - 1e-9 <= found[hole].min() <= found[hole].max() <= rim.max() + 1e-9


def test_no_flow_across_the_border_of_the_image() -> None:
    """The left half is known to be 50: so is the rest, up to the border."""
    good = np.full((6, 10), 50.0)
    good[:, 5:] = noise(6, 5)
    found = poisson_blend(good, np.zeros((6, 5)), np.ones((6, 5), bool), 0, 5)
    np.testing.assert_allclose(found, 50)


def test_unknown_values_have_no_gradient() -> None:
    good, mask = noise(12, 12), inner(8, 8)
    unknown, flat = np.full((8, 8), np.nan), np.zeros((8, 8))
    np.testing.assert_array_equal(poisson_blend(good, unknown, mask, 2, 2), poisson_blend(good, flat, mask, 2, 2))


def test_a_mask_that_covers_everything_is_pasted() -> None:
    good, patch, mask = noise(5, 6), noise(5, 6, seed=1), np.ones((5, 6), bool)
    np.testing.assert_array_equal(poisson_blend(good, patch, mask, 0, 0), patch)


def test_a_large_hole_takes_little_time() -> None:
    good, patch, mask = noise(300, 300), noise(256, 256, seed=1), np.ones((256, 256), bool)
    found = poisson_blend(good, patch, mask, 10, 10)
    assert np.isfinite(found).all()


# ---------------------------------------------------------------------------------------------------------- pastes


def test_pasting_is_copying() -> None:
    good, patch, mask = noise(12, 14, 3), noise(6, 7, 3, seed=1), blob(6, 7)
    kept = good.copy()
    found = paste(good, patch, mask, 3, 5, False)
    expected = good.copy()
    expected[3:9, 5:12] = np.where(mask[..., None], patch, good[3:9, 5:12])
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(good, kept)


@pytest.mark.parametrize("channels", [(), (3,)])
def test_matched_brightness_agrees_along_the_rim(channels: tuple[int, ...]) -> None:
    good, patch, mask = noise(12, 14, *channels), noise(7, 7, *channels, seed=1), inner(7, 7)
    found = paste(good, patch, mask, 3, 5, True)
    shift = (found[3:10, 5:12] - patch)[mask]
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape))
    rim = ndimage.binary_dilation(mask) & ~mask
    np.testing.assert_allclose((patch[rim] + shift[0]).mean(0), good[3:10, 5:12][rim].mean(0))


def test_a_thin_dark_line_stays_dark() -> None:
    good, patch, mask = np.full((9, 9), 180.0), np.full((5, 7), 100.0), np.zeros((5, 7), bool)
    mask[2, 1:6] = True
    patch[mask] = 60
    assert paste(good, patch, mask, 2, 1, True)[4, 2:7].tolist() == [140.0] * 5


@pytest.mark.parametrize("unknown", [False, True])
def test_a_patch_without_surroundings_is_matched_by_its_own_rim(unknown: bool) -> None:
    good, patch, mask = noise(9, 9), noise(5, 5, seed=1), np.ones((5, 5), bool)
    if unknown:
        patch, mask = np.pad(patch, 1, constant_values=np.nan), np.pad(mask, 1)
    top = 1 if unknown else 2
    found = paste(good, patch, mask, top, top, True)[2:7, 2:7]
    rim = np.ones((5, 5), bool)
    rim[1:-1, 1:-1] = False
    assert found[rim].mean() == pytest.approx(good[2:7, 2:7][rim].mean())


@pytest.mark.parametrize("blend", [lambda *a: paste(*a, True), poisson_blend], ids=["paste", "poisson"])
def test_types(blend) -> None:
    deep = np.full((9, 9), 60_000, np.uint16)
    patch, mask = np.zeros((5, 5)), np.zeros((5, 5), bool)
    mask[1:4, 1:4] = True
    patch[2, 2] = 50_000
    found = blend(deep, patch, mask, 2, 2)
    assert found.dtype == np.uint16
    assert found.max() == 65_535
    assert blend(deep.astype(float), patch, mask, 2, 2).max() > 65_535
    outside = np.ones((9, 9), bool)
    outside[2:7, 2:7] = ~mask
    assert (found[outside] == 60_000).all()


def test_an_empty_mask_changes_nothing() -> None:
    good, mask = noise(6, 6), np.zeros((3, 3), bool)
    for found in (paste(good, noise(3, 3), mask, 1, 1, True), poisson_blend(good, noise(3, 3), mask, 1, 1)):
        np.testing.assert_array_equal(found, good)


@pytest.mark.parametrize(("top", "left"), [(-1, 0), (0, -1), (4, 0), (0, 4)])
def test_patches_stay_inside(top: int, left: int) -> None:
    with pytest.raises(AssertionError):
        paste(noise(6, 6), noise(3, 3), np.ones((3, 3), bool), top, left, False)
