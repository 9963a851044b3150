"""Run lengths: against pycocotools, against what Label Studio itself wrote, and what is refused."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from annotated import BRUSH, LABEL_STUDIO_BRUSH, plain_brush
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from guided_diffusion.data.components import Box, Component, find_components
from guided_diffusion.data.formats.regions import Polygons
from guided_diffusion.data.formats.run_lengths import (
    ColumnRuns,
    brush_alpha,
    mask_of_runs,
    runs_of_mask,
    runs_of_part,
    runs_of_text,
    text_of_runs,
)

masks = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda size: arrays(bool, size))


@given(masks, st.booleans())
def test_runs_come_back(mask, by_column):
    runs = runs_of_mask(mask, by_column=by_column)
    assert sum(runs) == mask.size
    assert all(run > 0 for run in runs[1:])
    assert np.array_equal(mask_of_runs(runs, mask.shape, by_column=by_column), mask)


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=12))
def test_text_comes_back(runs):
    assert runs_of_text(text_of_runs(runs)) == runs


@given(masks)
def test_text_is_that_of_pycocotools(mask):
    tools = pytest.importorskip("pycocotools.mask")
    encoded = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = text_of_runs(runs_of_mask(mask, by_column=True))
    assert text == encoded["counts"].decode()
    assert runs_of_text(text) == runs_of_mask(mask, by_column=True)


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_polygons_are_those_of_pycocotools_but_for_borders():
    """Its polygons are drawn on a grid of fifths of pixels; they differ in pixels at the outline alone."""
    tools = pytest.importorskip("pycocotools.mask")
    different = border = area = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        angles = np.sort(random.random(7)) * 2 * np.pi
        radius = random.random((7, 1)) * 25 + 4
        ring = (40, 30) + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        painted = Polygons((ring,), "centers").paint((60, 80))
        ours = np.zeros((60, 80), np.uint8)
        height, width = painted.bits.shape
        ours[painted.top : painted.top + height, painted.left : painted.left + width] = painted.bits
        theirs = tools.decode(tools.merge(tools.frPyObjects([ring.ravel().tolist()], 60, 80)))
        padded = np.pad(ours, 1, mode="edge")
        edge = np.zeros_like(ours, bool)
        for down, right in ((0, 1), (2, 1), (1, 0), (1, 2)):
            edge |= padded[down : down + 60, right : right + 80] != ours
        different += (ours != theirs).sum()
        border += ((ours != theirs) & edge).sum()
        area += theirs.sum()
    assert different / area < 0.03
    assert border / different > 0.97


def test_a_brush_mask_of_label_studio():
    assert np.array_equal(brush_alpha(LABEL_STUDIO_BRUSH, BRUSH.shape), BRUSH)


@given(masks)
def test_listed_brush_values_come_back(mask):
    assert np.array_equal(brush_alpha(plain_brush(mask), mask.shape) > 0, mask)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LABEL_STUDIO_BRUSH[:-3], "cut short"),
        (LABEL_STUDIO_BRUSH[:3], "cut short"),
        ([0, 0, 1, *LABEL_STUDIO_BRUSH[3:]], "values, not"),
        ([256], "0..255"),
    ],
)
def test_damaged_brush_masks_are_refused(content, words):
    with pytest.raises(ValueError, match=words):
        brush_alpha(content, BRUSH.shape)


@pytest.mark.parametrize(
    ("text", "words"), [("~", "character"), (" ", "character"), ("o", "middle"), ("o" * 40, "char")]
)
def test_damaged_text_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        runs_of_text(text)


@pytest.mark.parametrize("seed", range(20))
def test_columns_of_runs_are_painted_where_the_whole_mask_has_them(seed):
    mask = np.random.default_rng(seed).random((5, 11)) < (0.02, 0.3, 0.9, 1)[seed % 4]
    mask[:, : seed % 5] = False
    painted, found = ColumnRuns(runs_of_mask(mask, by_column=True), mask.shape).paint(mask.shape), np.zeros_like(mask)
    found[painted.top :, painted.left :][: painted.bits.shape[0], : painted.bits.shape[1]] = painted.bits
    assert np.array_equal(found, mask)
    assert painted.bits.shape[1] == np.ptp(np.flatnonzero(mask.any(0))) + 1 if mask.any() else painted.bits.size == 0
    with pytest.raises(ValueError, match="5x11 pixels"):
        ColumnRuns([55], (11, 5)).paint(mask.shape)
    with pytest.raises(ValueError, match="runs are"):
        ColumnRuns([54], mask.shape).paint(mask.shape)


@pytest.mark.parametrize("runs", [[3], [-1, 7], [10**12], []])
def test_runs_of_another_length_are_refused(runs):
    with pytest.raises(ValueError, match="runs are"):
        mask_of_runs(runs, (2, 3), by_column=False)


@pytest.mark.parametrize("seed", range(20))
def test_runs_of_a_part_are_those_of_the_whole_mask(seed):
    rng = np.random.default_rng(seed)
    whole = np.zeros((7, 9), bool)
    top, left = rng.integers(0, 7), rng.integers(0, 9)
    whole[top : top + rng.integers(1, 8), left : left + rng.integers(1, 10)] = True
    (part,) = find_components(whole.astype(np.uint8), (1,))
    assert runs_of_part(part, whole.shape) == runs_of_mask(whole, by_column=True)


def test_a_small_part_of_a_large_image_is_written_without_the_whole_of_it():
    part = Component(1, Box(1000, 2000, 1020, 2020), np.ones((20, 20), bool))
    tracemalloc.start()
    runs_of_part(part, (3000, 4000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
