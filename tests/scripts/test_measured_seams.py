"""Seams of defects whose answer is known: painted without a seam, pasted with one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from evaluations.blending import paste, poisson_blend
from guided_diffusion.data.components import Box
from scripts.measure.seam_picture import CELL, PictureRow, seam_picture
from scripts.measure.seams import (
    ALL_CLASSES,
    FEATHERED,
    HEADINGS,
    METHODS,
    REAL,
    Case,
    Placement,
    figures,
    fill,
    measure,
    table,
)

OURS, PASTED, MATCHED, _, POISSON = METHODS


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
    rows = measure(case_of(seed, channels, deep=deep) for seed in range(6))["rim"]
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
        expected = {
            OURS: case.result,
            PASTED: paste(*whole, False),
            MATCHED: paste(*whole, True),
            POISSON: poisson_blend(*whole),
        }
        for margin in (1, 5):
            filled = fill(case, placement, under=under, margin=margin)
            window = placement.window((40, 50), margin)
            np.testing.assert_array_equal(filled.good, case.good[window])
            assert filled.rim.sum() == own.sum()
            for name, image in expected.items():
                np.testing.assert_array_equal(filled.images[name], image[window])
                if name != OURS or under == "hole":
                    changed = (filled.images[name] != filled.good).any(-1)
                    assert not changed[~filled.rim].any()
            assert set(filled.images) == {*expected, FEATHERED if under == "hole" else REAL}


def test_rows_are_classes_and_methods() -> None:
    cases = [case_of(seed) for seed in range(5)]
    flat = np.full_like(cases[0].good, 9)
    (placement,) = cases[0].placements
    cases.append(Case("flat", flat, flat, (placement, placement)))
    found = measure(cases)
    rows = found["rim"]
    assert [(row.class_name, row.method) for row in rows] == [
        (name, method) for name in (ALL_CLASSES, "dent", "spot") for method in METHODS
    ]
    counts = {row.class_name: (row.jumps.count, row.jumps.left_out) for row in rows}
    assert counts == {ALL_CLASSES: (5, 2), "dent": (3, 2), "spot": (2, 0)}
    assert len(table(rows).splitlines()) == 2 + 3
    record = json.loads(json.dumps(figures(found), allow_nan=False))
    assert record["accepted"] is True
    assert record["rim"][0] == {"class": ALL_CLASSES, "method": OURS, "left_out": 2, "count": 5} | {
        key: pytest.approx(getattr(rows[0].jumps, key)) for key in ("lower", "median", "upper")
    }


def test_seams_of_ours_are_not_accepted() -> None:
    cases = [case_of(seed) for seed in range(3)]
    torn = [Case(each.name, each.good, fill_pasted(each), each.placements) for each in cases]
    assert figures(measure(torn))["accepted"] is False
    assert figures(measure([]))["accepted"] is False
    assert all(table(rows).count("\n") == 2 for rows in measure([]).values())


def fill_pasted(case: Case) -> np.ndarray:
    (each,) = case.placements
    return paste(case.good, each.patch, each.hole, each.top, each.left, False)


def test_the_mask_has_the_steps_of_the_training_image() -> None:
    cases = [case_of(seed) for seed in range(6)]
    rows = measure(cases)["mask"]
    median = {row.method: row.jumps.median for row in rows if row.class_name == ALL_CLASSES}
    assert set(median) == {OURS, PASTED, MATCHED, POISSON, REAL}
    assert median[REAL] == pytest.approx(median[OURS], rel=0.1)  # both are 50 levels darker inside
    assert median[PASTED] < 0.5 * median[REAL]  # 40 levels brighter outside the source's mask are lost


def test_a_feathered_seam_is_seen_in_the_zone_alone() -> None:
    rows = {}
    for feather in (0, 4):
        cases = []
        for case in (case_of(seed, left=4) for seed in range(6)):
            (each,) = case.placements
            patch = each.patch.astype(float)
            patch[:, :9] += 60  # brighter on one side, so that matching does not help
            depth = ndimage.distance_transform_edt(each.hole)
            weights = np.minimum(depth / (feather + 1), 1)
            changed = Placement("spot", each.top, each.left, each.hole, each.mask, patch, weights, feather + 1)
            cases.append(Case(case.name, case.good, case.result, (changed,)))
        rows[feather] = measure(cases)
    at = {
        (feather, view): next(row.jumps.median for row in found[view] if row.method == FEATHERED)
        for feather, found in rows.items()
        for view in ("rim", "zone")
    }
    assert at[0, "rim"] == at[0, "zone"] > 5
    assert at[4, "rim"] < 2.5 < at[0, "rim"] / 2
    assert at[4, "zone"] > 1.2


def test_headings_are_views() -> None:
    assert set(measure([case_of(0)])) == set(HEADINGS) - {"seen"}
    assert set(measure([replace(case_of(0), scale=0.5)])) == set(HEADINGS)


def test_at_the_scale_of_the_network_an_enlarged_edge_is_a_step_again() -> None:
    """A defect of pixels twice as large whose outline was smoothed in enlarging it, as `place` does below scale 1."""
    cases = []
    for seed in range(6):
        case = case_of(seed, top=12, left=10)
        (each,) = case.placements
        inside = np.zeros(case.good.shape, float)
        inside[each.top : each.top + each.hole.shape[0], each.left : each.left + each.hole.shape[1]] = each.mask
        soft = case.good - np.round(50 * ndimage.uniform_filter(inside, 4))
        cases.append(replace(case, result=soft.astype(np.uint8), scale=0.5))
    rows = measure(cases)
    share = {}
    for view in ("mask", "seen"):
        median = {row.method: row.jumps.median for row in rows[view] if row.class_name == ALL_CLASSES}
        share[view] = (median[OURS] - 1) / (median[REAL] - 1)
    assert share["mask"] < 0.35
    assert share["seen"] > 1.5 * share["mask"]


@pytest.mark.parametrize("deep", [False, True])
def test_the_picture_has_a_row_a_defect(deep: bool) -> None:
    rng, top = np.random.default_rng(0), 65535 if deep else 255
    kind = np.uint16 if deep else np.uint8
    rows = []
    for box in (Box(100, 120, 108, 130), Box(20, 10, 190, 240), Box(0, 0, 60, 250)):
        mask = np.zeros((200, 250), bool)
        mask[box.slices] = True
        images = {name: rng.integers(0, top, (200, 250), kind) for name in ("good", "pasted", "ours")}
        rows.append(PictureRow("name", "spot", images, mask))
    one, three = seam_picture(rows[:1]), seam_picture(rows)
    assert three.height > 2.5 * one.height > 2 * CELL[1]
    assert 3 * CELL[0] <= one.width <= 3 * CELL[0] + 100
    assert np.asarray(one).std() > 10
