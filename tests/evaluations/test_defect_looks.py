"""Contrast and texture of defects are what they are drawn with."""

from __future__ import annotations

import numpy as np
import pytest

from evaluations.defect_looks import FARTHEST, FEWEST_DEFECTS, Look, Looks, differs, look_of, strength_ratio

SIZE = 40, 40


def square(top: int, left: int, side: int = 8) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def noise(deviation: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, deviation, SIZE)


@pytest.mark.parametrize(("ground", "defect", "contrast"), [(100, 60, -0.4), (50, 30, -0.4), (80, 120, 0.5), (0, 3, 3)])
@pytest.mark.parametrize("channels", [0, 3])
def test_contrast_is_relative_to_what_surrounds_a_defect(ground, defect, contrast, channels):
    mask = square(0, 16)
    image = np.where(mask, defect, ground).astype(np.uint8)
    image = np.repeat(image[..., None], channels, 2) if channels else image
    look = look_of(image, mask, ~mask)
    assert look.contrast == pytest.approx(contrast)


def test_other_defects_and_the_rim_are_not_what_surrounds_it():
    mask, other = square(16, 16), square(16, 25)
    image = np.where(mask, 50.0, 100.0)
    image[other] = 255
    image[15, 15:25] = 0  # a mask that is a pixel too small
    assert look_of(image, mask, ~(mask | other)).contrast == pytest.approx(-0.5)
    assert look_of(image, mask, ~mask).contrast < -0.5


def test_a_part_around_the_defect_is_enough():
    mask, image = square(16, 16), 100 + noise(5)
    window = slice(16 - FARTHEST, 24 + FARTHEST)
    part = look_of(image[window, window], mask[window, window], ~mask[window, window])
    assert part.contrast == pytest.approx(look_of(image, mask, ~mask).contrast)


def test_texture_is_relative_to_what_surrounds_a_defect():
    mask = square(12, 12, 16)
    for factor in (0.5, 1.0, 2.0):
        image = 100 + noise(5) * np.where(mask, factor, 1) - 40 * mask
        smooth = 100 + noise(5) * np.where(mask, factor, 1)
        assert look_of(smooth, mask, ~mask).texture == pytest.approx(factor, rel=0.2)
        assert look_of(image, mask, ~mask).texture > look_of(smooth, mask, ~mask).texture  # its rim is fine, too
    assert look_of(np.full(SIZE, 9), mask, ~mask).texture is None


@pytest.mark.parametrize("mask", [square(16, 16, 2), np.zeros(SIZE, bool), np.ones(SIZE, bool)])
def test_too_little_to_say(mask):
    assert look_of(noise(5), mask, ~mask) is None


def looks(contrast: float, count: int = FEWEST_DEFECTS) -> Looks | None:
    return Looks.of([Look(contrast, None)] * count)


class TestTwoSets:
    def test_quartiles(self):
        found = Looks.of([Look(value, abs(value)) for value in (-0.4, -0.2, 0.0, 0.2, 0.6)])
        assert (found.count, found.strength) == (5, pytest.approx(0.2))
        assert found.contrast == pytest.approx((-0.2, 0.0, 0.2))
        assert found.texture == pytest.approx((0.2, 0.2, 0.4))
        assert Looks.of([]) is None

    @pytest.mark.parametrize(
        ("synthetic", "real", "ratio", "says"),
        [(-0.4, -0.2, 2.0, True), (0.2, -0.2, 1.0, False), (0.1, 0.4, 0.25, True), (0.25, 0.2, 1.25, False)],
    )
    def test_times_as_much(self, synthetic, real, ratio, says):
        found = strength_ratio(looks(synthetic), looks(real))
        assert found == pytest.approx(ratio)
        assert differs(found) == says

    def test_what_cannot_be_judged(self):
        for pair in (
            (None, looks(0.2)),
            (looks(0.4), None),
            (looks(0.4, FEWEST_DEFECTS - 1), looks(0.2)),
            (looks(0.4), looks(0.2, FEWEST_DEFECTS - 1)),
            (looks(0.03), looks(0.01)),  # neither can be seen
        ):
            assert strength_ratio(*pair) is None
        assert not differs(None)
