"""How thick the parts of a class are, and what that leaves of latents."""

from __future__ import annotations

import numpy as np
import pytest

from guided_diffusion.data.thickness import class_thickness, fitting_factor, too_thin


def square(side: int, size: int = 48) -> np.ndarray:
    label = np.zeros((size, size), np.uint8)
    label[3 : 3 + side, 3 : 3 + side] = 1
    return label


@pytest.mark.parametrize("side", [1, 2, 7, 20])
def test_a_square_is_as_thick_as_its_side(side):
    thickness = class_thickness([square(side)], 2)[1]
    assert abs(thickness - side) <= 1  # the circle goes through centers of pixels


def test_the_median_of_the_parts_counts_and_missing_classes_have_none():
    label = square(9)
    label[40:41, :] = 1
    label[44:45, 3:20] = 1
    thickness = class_thickness([label, square(1)], 3)
    assert thickness[1] == 2
    assert np.isnan(thickness[2])


def test_a_part_that_fills_the_image_ends_at_its_border():
    assert class_thickness([np.ones((10, 30), np.uint8)], 2)[1] == 10


def test_the_factor_that_fits():
    assert too_thin([2.0, 16.0, 15.9, float("nan")], 8, 0) == [2]
    assert fitting_factor([2.0, 16.0], 0) == 8
    assert fitting_factor([2.0, 15.0], 0) == 4
    assert fitting_factor([20.0, 7.0], 0) is None
