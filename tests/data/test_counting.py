"""Counts of values are those of NumPy, whatever the parts in which they are counted."""

from __future__ import annotations

import numpy as np
import pytest

from guided_diffusion.data.counting import distinct_values, value_counts


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("shape", [(0,), (1, 1), (300, 500)])
def test_counts_are_those_of_numpy(dtype, shape):
    values = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)[..., ::-1]
    values[values % 7 == 3] = 0
    counts = value_counts(values)
    assert counts.tolist() == np.bincount(values.astype(np.int64).ravel()).tolist()
    assert value_counts(values, 256).tolist() == np.bincount(values.astype(np.int64).ravel(), minlength=256).tolist()
    assert np.array_equal(distinct_values(values), np.unique(values))


def test_negative_values_are_distinct_ones_too():
    assert distinct_values(np.array([[3, -1], [0, 3]], np.int16)).tolist() == [-1, 0, 3]
