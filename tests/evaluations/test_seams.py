"""Rim jumps are what their definition says, whatever the image's size and type."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluations.seams import RimJumps, rim_difference, rim_jump

Mask = NDArray[np.bool_]


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def blob(height: int, width: int, seed: int = 0) -> Mask:
    return np.random.default_rng(seed).random((height, width)) < 0.4


def plain_difference(image: NDArray[np.uint8], hole: Mask) -> float:
    """Return the mean over the pairs straight from the words."""
    height, width = hole.shape
    values = []
    for y, x in np.argwhere(hole):
        for down, across in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            v, u = y + down, x + across
            if 0 <= v < height and 0 <= u < width and not hole[v, u]:
                values.append(np.abs(image[y, x].astype(float) - image[v, u]).mean())
    return float(np.mean(values))


@pytest.mark.parametrize("shape", [(9, 12), (9, 12, 1), (9, 12, 3)])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_mean_over_all_pairs(shape: tuple[int, ...], seed: int) -> None:
    good, result, hole = noise(*shape), noise(*shape, seed=1), blob(9, 12, seed)
    assert rim_difference(good, hole) == pytest.approx(plain_difference(good, hole))
    expected = plain_difference(result, hole) / plain_difference(good, hole)
    assert rim_jump(result, good, hole) == pytest.approx(expected)


def test_an_untouched_image_has_none() -> None:
    good = noise(20, 20)
    assert rim_jump(good, good, blob(20, 20)) == 1


def test_what_is_inside_and_far_outside_does_not_count() -> None:
    good = noise(20, 20)
    hole = np.zeros((20, 20), bool)
    hole[5:12, 6:15] = True
    result = good.copy()
    result[6:11, 7:14] += 77
    result[:4] += 55
    result[4, 5] += 33  # touches a corner only
    assert rim_jump(result, good, hole) == 1


def test_a_constant_in_the_hole_is_a_step_by_hand() -> None:
    """A ramp of 2 gray levels a column: 4 rows x 2 sides have steps of 2, 2 x 3 columns steps of 0."""
    good = np.repeat(2.0 * np.arange(10)[None], 10, axis=0)
    hole = np.zeros((10, 10), bool)
    hole[3:7, 4:7] = True
    assert rim_difference(good, hole) == pytest.approx(8 * 2 / 14)
    # Up by 10: 8 and 12 at the sides, 10 above and below.
    assert rim_jump(good + 10 * hole, good, hole) == pytest.approx((4 * (12 + 8) + 6 * 10) / 16)


def test_only_the_box_of_the_hole_is_read() -> None:
    small, result, hole = noise(6, 7), noise(6, 7, seed=1), blob(6, 7)
    hole[[0, -1]] = hole[:, [0, -1]] = False
    large = [np.pad(each, ((30, 5), (11, 40))) for each in (result, small, hole)]
    large[1][0, 0] = 200
    assert rim_jump(*large) == rim_jump(result, small, hole)


def test_floats_and_integers_agree() -> None:
    good, result, hole = noise(9, 9), noise(9, 9, seed=1), blob(9, 9)
    deep = rim_jump(result.astype(np.uint16) * 257, good.astype(np.uint16) * 257, hole)
    assert rim_jump(result / 255, good / 255, hole) == pytest.approx(rim_jump(result, good, hole))
    assert deep == pytest.approx(rim_jump(result, good, hole))


@pytest.mark.parametrize("value", [False, True], ids=["empty", "everything"])
def test_a_hole_without_a_rim(value: bool) -> None:
    hole = np.full((5, 6), value)
    assert rim_difference(noise(5, 6), hole) is None
    assert rim_jump(noise(5, 6), noise(5, 6, seed=1), hole) is None


def test_a_hole_in_a_flat_image() -> None:
    hole = np.zeros((5, 6), bool)
    hole[2, 2] = True
    assert rim_jump(noise(5, 6), np.full((5, 6), 9, np.uint8), hole) is None


def test_a_hole_at_the_border_has_a_rim_on_the_other_sides() -> None:
    good = np.zeros((6, 6))
    good[:, 2:] = 5
    hole = np.zeros((6, 6), bool)
    hole[:, :2] = True
    assert rim_jump(good * 3, good, hole) == 3


def test_many_holes_are_summarized() -> None:
    good = np.zeros((6, 6))
    good[:, 2:] = 5
    hole = np.zeros((6, 6), bool)
    hole[:, :2] = True
    jumps = [rim_jump(good * factor, good, hole) for factor in (5, 1, 2, 4, 3)]
    found = RimJumps.of([*jumps, rim_jump(good, good * 0, hole)])
    assert found == RimJumps(count=5, left_out=1, lower=2, median=3, upper=4)
    assert RimJumps.of([None]) == RimJumps(0, 1, None, None, None)


def test_a_ramp_is_spread_over_the_width() -> None:
    good = np.tile(np.arange(20.0), (12, 1))  # steps of 1 across, 0 down
    hole = np.zeros((12, 20), bool)
    hole[:, 6:14] = True
    raised = good.copy()
    raised[:, 6:14] += 8
    assert rim_jump(raised, good, hole) == pytest.approx((9 + 7) / 2)
    ramp = good + np.interp(np.arange(20), [5, 9, 10, 14], [0, 8, 8, 0])  # over 4 pixels from each side
    assert rim_jump(ramp, good, hole) == pytest.approx((3 + 1) / 2)
    assert rim_jump(ramp, good, hole, 4) == pytest.approx((3 + 1) / 2)
    assert rim_jump(raised, good, hole, 4) == pytest.approx((4 * 1 + 4 * 1 - 2 + 9 + 7) / 8)


@pytest.mark.parametrize("width", [1, 2, 5, 100])
def test_an_untouched_image_has_no_jump_at_any_width(width: int) -> None:
    hole = np.zeros((20, 30), bool)
    hole[4:13, 5:22] = True
    hole[0:5, 0:6] = True
    assert rim_jump(noise(20, 30), noise(20, 30), hole, width) == 1
    assert rim_jump(noise(20, 30), noise(20, 30), ~hole, width) == 1
    for value in (False, True):
        assert rim_difference(noise(5, 6), np.full((5, 6), value), width) is None


def test_what_lies_deeper_than_the_width_does_not_count() -> None:
    hole = np.zeros((30, 30), bool)
    hole[5:25, 5:25] = True
    changed = noise(30, 30).astype(float)
    changed[9:21, 9:21] += 500  # from the fifth pixel on: the step is between the fourth and the fifth
    assert rim_jump(changed, noise(30, 30), hole, 4) == 1
    assert rim_jump(changed, noise(30, 30), hole, 5) > 1.05
