"""Counts in words."""

from __future__ import annotations

import pytest

from guided_diffusion.runtime.units import counted


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ((0, "epoch"), "0 epochs"),
        ((1, "image to draw"), "1 image to draw"),
        ((2, "image to draw"), "2 images to draw"),
        ((1, "batch", "batches"), "1 batch"),
        ((2, "batch", "batches"), "2 batches"),
    ],
)
def test_one_and_several(asked, words):
    assert counted(*asked) == words
