"""Outlines of masks, filled again."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from guided_diffusion.data.components import find_components
from guided_diffusion.data.formats.outlines import corners, outline, without_holes
from guided_diffusion.data.formats.regions import Polygons

masks = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(
    lambda size: arrays(np.uint8, size, elements=st.integers(0, 1))
)


def filled(rings, shape) -> np.ndarray:
    """Return what a reader fills that cuts off fractions, after corners were written as shares with seven digits."""
    label = np.zeros(shape, np.uint8)
    for ring in rings:
        shares = np.round(ring / shape[::-1], 7)
        painted = Polygons((shares * shape[::-1],), "corners").paint(shape)
        height, width = painted.bits.shape
        place = label[painted.top : painted.top + height, painted.left : painted.left + width]
        assert not place[painted.bits].any()  # no pixel is said twice
        place[painted.bits] = 1
    return label


@given(masks)
def test_any_mask_comes_back(mask):
    rings = [ring for component in find_components(mask, (1,)) for ring in corners(component)[0]]
    assert np.array_equal(filled(rings, mask.shape), mask)
    assert all(len(ring) >= 3 and (np.ptp(ring, axis=0) > 0).all() for ring in rings)


@given(masks)
def test_parts_have_no_holes_and_make_up_the_mask(mask):
    for component in find_components(mask, (1,)):
        sum_of_parts = np.zeros(component.mask.shape, int)
        for top, left, bits in without_holes(component.mask):
            assert np.array_equal(ndimage.binary_fill_holes(bits), bits)
            sum_of_parts[top : top + bits.shape[0], left : left + bits.shape[1]] += bits
        assert np.array_equal(sum_of_parts, component.mask.astype(int))


def test_straight_runs_have_two_corners():
    mask = np.zeros((30, 40), bool)
    mask[5:20, 7:33] = True
    assert sorted(map(tuple, outline(mask).tolist())) == [(7, 5), (7, 19), (32, 5), (32, 19)]


def test_holes_are_counted():
    mask = np.ones((9, 9), np.uint8)
    mask[2, 2] = mask[6, 5:7] = 0
    (component,) = find_components(mask, (1,))
    rings, holes = corners(component)
    assert (len(rings), holes) == (3, 2)
