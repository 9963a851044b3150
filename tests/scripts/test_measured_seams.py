"""Seams of defects whose answer is known: painted without a seam, pasted with one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage

from evaluations.blending import paste, poisson_blend
from scripts.measure.seams import ALL_CLASSES, METHODS, Case, Placement, figures, fill, measure, picture, table

OURS, PASTED, MATCHED, POISSON = METHODS


def case_of(seed: int, channels: tuple[int, ...] = (), *, top: int = 12, left: int = 10, deep: bool = False) -> Case:
    """Return a grainy image with a dark spot that was painted in its middle, its source being 40 levels brighter."""
    rng = np.random.default_rng(seed)
    scale = 257 if deep else 1
    good = rng.normal(120, 4, (40, 50, *channels))
    patch = rng.normal(160, 4, (16, 18, *channels))
    hole = np.zeros((16, 18), bool)
    hole[1:-1, 1:-1] = True
    mask = ndimage.binary_erosion(hole, iterations=4)
    painted = rng.normal(120, 4, patch.shape)
    for each in (patch, painted):
        each[mask] -= 50
    kind = np.uint16 if deep else np.uint8
    good, patch, painted = ((each * scale).astype(kind) for each in (good, patch, painted))
    placement = Placement("spot" if seed % 2 else "dent", top, left, hole, mask, patch)
    return Case(str(seed), good, paste(good, painted, hole, top, left, False), (placement,))


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
@pytest.mark.parametrize("deep", [False, True])
def test_medians_tell_the_methods_apart(channels: tuple[int, ...], deep: bool) -> None:
    rows = measure(case_of(seed, channels, deep=deep) for seed in range(6))
    median = {row.method: row.jumps.median for row in rows if row.class_name == ALL_CLASSES}
    assert median[OURS] == pytest.approx(1, abs=0.15)
    assert median[PASTED] > 5
    assert median[MATCHED] == pytest.approx(1, abs=0.3)
    assert median[POISSON] == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize(("top", "left"), [(12, 10), (0, 0), (24, 32), (0, 32)])
def test_a_part_is_filled_as_the_whole_image_is(top: int, left: int) -> None:
    case = case_of(0, (3,), top=top, left=left)
    (placement,) = case.placements
    for under in ("hole", "mask"):
        own = getattr(placement, under)
        whole = (case.good, placement.patch, own, top, left)
        expected = (case.result, paste(*whole, False), paste(*whole, True), poisson_blend(*whole))
        for margin in (1, 5):
            filled = fill(case, placement, under=under, margin=margin)
            window = placement.window((40, 50), margin)
            np.testing.assert_array_equal(filled.good, case.good[window])
            for name, image in zip(METHODS, expected, strict=True):
                np.testing.assert_array_equal(filled.images[name], image[window])
                size = placement.hole.sum() if name == OURS else own.sum()
                assert filled.replaced[name].sum() == size
                changed = (filled.images[name] != filled.good).any(-1)
                assert not changed[~filled.replaced[name]].any()


def test_rows_are_classes_and_methods() -> None:
    cases = [case_of(seed) for seed in range(5)]
    flat = np.full_like(cases[0].good, 9)
    (placement,) = cases[0].placements
    cases.append(Case("flat", flat, flat, (placement, placement)))
    rows = measure(cases)
    assert [(row.class_name, row.method) for row in rows] == [
        (name, method) for name in (ALL_CLASSES, "dent", "spot") for method in METHODS
    ]
    counts = {row.class_name: (row.jumps.count, row.jumps.left_out) for row in rows}
    assert counts == {ALL_CLASSES: (5, 2), "dent": (3, 2), "spot": (2, 0)}
    assert len(table(rows).splitlines()) == 2 + 3
    record = json.loads(json.dumps(figures(rows), allow_nan=False))
    assert record["accepted"] is True
    assert record["rows"][0] == {"class": ALL_CLASSES, "method": OURS, "left_out": 2, "count": 5} | {
        key: pytest.approx(getattr(rows[0].jumps, key)) for key in ("lower", "median", "upper")
    }


def test_seams_of_ours_are_not_accepted() -> None:
    cases = [case_of(seed) for seed in range(3)]
    torn = [Case(each.name, each.good, fill_pasted(each), each.placements) for each in cases]
    assert figures(measure(torn))["accepted"] is False
    assert figures(measure([]))["accepted"] is False
    assert table(measure([])).count("\n") == 2


def fill_pasted(case: Case) -> np.ndarray:
    (each,) = case.placements
    return paste(case.good, each.patch, each.hole, each.top, each.left, False)


@pytest.mark.parametrize("deep", [False, True])
def test_the_picture_has_a_row_a_hole(deep: bool) -> None:
    one, two = (picture([case_of(seed, deep=deep) for seed in range(6)], each=count) for count in (1, 2))
    assert two.height > 1.7 * one.height
    assert np.asarray(one).std() > 10
