"""Holes of training: over defects with a margin, rectangles, everything."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from guided_diffusion.data.holes import GROWN_BY, HoleMaker, grown
from guided_diffusion.data.windows import numbers

CLASSES = (1, 2)


def draws(seed: int):
    return numbers(torch.Generator().manual_seed(seed))


def spotted(seed: int, size=(40, 48)) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    label = np.zeros(size, np.uint8)
    for class_id in (1, 2, 3):
        top, left = rng.integers(0, size[0] - 4), rng.integers(0, size[1] - 4)
        label[top : top + 3, left : left + 4] = class_id
    return torch.from_numpy(label)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_holes_over_defects_contain_one_class_or_all_with_a_margin(seed):
    label = spotted(seed)
    hole = HoleMaker((1.0, 0.0, 0.0), CLASSES)(label, draws(seed)).numpy()
    cross = ndimage.generate_binary_structure(2, 1)

    def margin(classes) -> np.ndarray:
        return ndimage.binary_dilation(np.isin(label, classes), cross, iterations=GROWN_BY[0])

    inside = [classes for classes in ((1,), (2,)) if (margin(classes) <= hole).all()]
    assert inside or not np.isin(label, CLASSES).any()
    # And not more than the largest margin, in boxes.
    far = np.zeros_like(hole)
    for part in ndimage.find_objects(ndimage.label(grown(np.isin(label, CLASSES), GROWN_BY[1]), np.ones((3, 3)))[0]):
        far[part] = True
    assert (hole <= far).all()


def test_half_of_the_holes_leave_the_other_classes_out():
    label = torch.zeros(60, 60, dtype=torch.uint8)
    label[5:8, 5:8], label[50:53, 50:53] = 1, 2
    maker, seen = HoleMaker((1.0, 0.0, 0.0), CLASSES), Counter()
    for seed in range(400):
        hole = maker(label, draws(seed))
        seen[bool(hole[6, 6]), bool(hole[51, 51])] += 1
    assert seen[True, True] == pytest.approx(200, abs=40)
    assert seen[True, False] == pytest.approx(100, abs=35)
    assert seen[False, True] == pytest.approx(100, abs=35)
    assert seen[False, False] == 0


@pytest.mark.parametrize("shares", [(0.6, 0.2, 0.2), (6.0, 2.0, 2.0), (0.0, 0.5, 0.5), (0.0, 0.0, 1.0)])
def test_shares_are_kept_whatever_their_sum(shares, monkeypatch):
    monkeypatch.setattr("guided_diffusion.data.holes.GROWN_BY", (3, 3))
    label = torch.zeros(50, 50, dtype=torch.uint8)
    label[20, 20] = 1
    maker, count = HoleMaker(shares, CLASSES), 1000
    one_pixel = int(grown(label.numpy() == 1, 3).sum())
    found = Counter()
    for seed in range(count):
        hole = maker(label, draws(seed))
        size = int(hole.sum())
        found[2 if size == 2500 else 0 if size in (one_pixel, 49) else 1] += 1
    for kind, share in enumerate(shares):
        assert found[kind] / count == pytest.approx(share / sum(shares), abs=0.045)


def test_windows_without_defects_get_a_rectangle():
    maker, label = HoleMaker((1.0, 0.0, 0.0), CLASSES), torch.full((30, 20), 3, dtype=torch.uint8)
    for seed in range(100):
        hole = maker(label, draws(seed)).numpy()
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole.sum() == len(rows) * len(columns) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert len(rows) >= 30 // 8
        assert len(columns) >= 20 // 8


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 8)])
@pytest.mark.parametrize("value", [0, 1])
def test_there_is_always_a_hole(size, value):
    label = torch.full(size, value, dtype=torch.uint8)
    for seed in range(60):
        hole = HoleMaker((0.5, 0.4, 0.1), CLASSES)(label, draws(seed))
        assert (hole.shape, hole.dtype) == (size, torch.bool)
        assert hole.any()


def test_the_same_numbers_give_the_same_hole():
    label, maker = spotted(0), HoleMaker((0.6, 0.2, 0.2), CLASSES)
    for seed in range(20):
        assert torch.equal(maker(label, draws(seed)), maker(label, draws(seed)))
