"""Statistics of masks: reference values of the features, floors that hold, and differences that are found."""

from __future__ import annotations

import json

import numpy as np
import pytest

from evaluations.mask_features import SHAPE, coverage, describe_mask
from evaluations.mask_statistics import (
    MaskReference,
    correlation,
    mask_statistics,
    shape_distance,
    total_variation,
)

NAMES = ("background", "disk", "line")
DISK, LINE, NULL = 1, 2, 3
SIDE = 48


def disk(label: np.ndarray, y: float, x: float, radius: float, value: int = DISK) -> np.ndarray:
    rows, columns = np.ogrid[: label.shape[0], : label.shape[1]]
    label[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = value
    return label


def masks(count: int, seed: int, *, radius=(3, 7), left=(8, 20), lines=0.5, disks=(1, 3)) -> list[np.ndarray]:
    """Masks of one to two disks at the left, and a line at the right of some."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        label = np.zeros((SIDE, SIDE), np.uint8)
        for top in range(rng.integers(*disks)):
            disk(label, 12 + 24 * top, rng.uniform(*left), rng.uniform(*radius))
        if rng.random() < lines:
            start = rng.integers(2, 20)
            label[start : start + rng.integers(10, 25), 36 + rng.integers(0, 6)] = LINE
        result.append(label)
    return result


@pytest.fixture(scope="module")
def reference() -> MaskReference:
    return MaskReference.of(masks(80, 0), NAMES, test=masks(30, 1))


def ratios(found) -> dict[tuple[str, str], float]:
    return {(line.class_name, line.name): line.ratio for line in found.lines}


class TestFeatures:
    def test_of_a_rectangle(self):
        label = np.zeros((40, 90), np.uint8)
        label[10:14, 20:40] = DISK
        facts = describe_mask(label, NULL).classes[DISK]
        area, perimeter, thickness, eccentricity, extent = facts.shapes[0]
        assert facts.area == area == pytest.approx(np.log2(80 / 3600))
        assert perimeter == pytest.approx(np.log2(48 / 130))
        assert thickness == pytest.approx(np.log2(4 / 60))
        # Second moments of a rectangle of 4 x 20 pixels: (n^2 - 1) / 12 between pixels, and 1/12 of each pixel.
        assert eccentricity == pytest.approx(np.sqrt(1 - 16 / 400))
        assert extent == pytest.approx(1)
        assert facts.centers[0] == pytest.approx([12 / 40, 30 / 90])
        assert len(SHAPE) == facts.shapes.shape[1]

    def test_of_a_disk(self):
        shape = describe_mask(disk(np.zeros((64, 64), np.uint8), 32, 32, 12), NULL).classes[DISK].shapes[0]
        assert 2 ** shape[2] * 64 == pytest.approx(25, abs=2)
        assert shape[3] == pytest.approx(0, abs=0.05)
        assert shape[4] == pytest.approx(441 / 25**2)

    def test_of_a_mask_that_is_filled(self):
        shape = describe_mask(np.full((32, 32), DISK, np.uint8), NULL).classes[DISK].shapes[0]
        assert shape[:3] == pytest.approx([0, np.log2(128 / 64), 0], abs=0.05)

    def test_components_and_specks(self):
        label = np.zeros((30, 30), np.uint8)
        label[2:4, 2] = label[10, 10] = label[20:23, 20] = DISK
        label[11, 11] = LINE
        described = describe_mask(label, NULL)
        assert len(described.classes[DISK].shapes) == 3
        assert described.specks == 3

    def test_diagonal_neighbors_are_one(self):
        assert len(describe_mask(np.eye(20, dtype=np.uint8), NULL).classes[DISK].shapes) == 1

    def test_neither_background_nor_ignored_pixels_count(self):
        label = np.full((20, 20), NULL, np.uint8)
        label[:10] = 0
        assert not describe_mask(label, NULL).classes
        assert set(describe_mask(np.array([[0, 1, 2]], np.uint8), NULL, background=1).classes) == {0, 2}

    @pytest.mark.parametrize("shape", [(5, 7), (32, 32), (100, 33)])
    def test_coverage_keeps_the_share(self, shape):
        assert coverage(np.ones(shape, bool), 32) == pytest.approx(np.ones((32, 32)))


class TestDistances:
    def test_total_variation(self):
        assert total_variation("aab", "aab") == 0
        assert total_variation("aa", "bb") == 1
        assert total_variation("ab", "aa") == pytest.approx(0.5)

    def test_correlation(self):
        ramp = np.arange(9.0).reshape(3, 3)
        assert correlation(ramp, 3 * ramp + 1) == pytest.approx(1)
        assert correlation(ramp, -ramp) == pytest.approx(-1)
        assert correlation(np.zeros((3, 3)), np.ones((3, 3))) == 1
        assert correlation(ramp, np.ones((3, 3))) == 0

    def test_mmd_of_equal_distributions_is_0_on_average(self):
        rng = np.random.default_rng(0)
        values = [shape_distance(rng.normal(size=(30, 5)), rng.normal(size=(40, 5))) for _ in range(200)]
        error = np.std(values) / np.sqrt(200)
        assert abs(np.mean(values)) < 4 * error
        assert shape_distance(rng.normal(1, 1, (30, 5)), rng.normal(size=(40, 5))) > np.quantile(values, 0.99)

    def test_mmd_by_hand(self):
        """Of one feature, 0 and 2, standardized to -1 and 1: k(x, y) = (xy + 1)^3."""
        real = np.array([[0.0], [2.0]])
        assert shape_distance(real, real) == pytest.approx(0 + 0 - 2 * (8 + 0 + 0 + 8) / 4)
        assert shape_distance(real[:1], real) is None


class TestVerdicts:
    @pytest.mark.slow
    def test_masks_of_the_same_kind_are_within_their_floors(self, reference):
        found = [mask_statistics(masks(60, 10 + seed), reference) for seed in range(6)]
        out = [line.is_out for each in found for line in each.judged if line.name != "near copies"]
        assert np.mean(out) < 0.15  # 5 % if the parts were independent of the others
        far = [line for each in found for line in each.far_out]
        assert len(far) <= 3

    @pytest.mark.parametrize(
        ("changes", "found"),
        [
            ({"radius": (1, 3)}, [("disk", "area"), ("disk", "size"), ("disk", "thickness"), ("disk", "shape")]),
            ({"left": (24, 30)}, [("disk", "place"), ("disk", "heat map")]),
            ({"lines": 0.05}, [("line", "share"), ("", "class sets")]),
            ({"disks": (2, 3)}, [("disk", "count")]),
        ],
    )
    def test_what_differs_is_named(self, reference, changes, found):
        statistics = mask_statistics(masks(60, 3, **changes), reference)
        by_name = ratios(statistics)
        assert all(by_name[name] > 1.5 for name in found)
        assert all(name in statistics.verdicts()[class_name] for class_name, name in found)

    def test_specks_and_empty_masks(self, reference):
        spoiled = masks(40, 3)
        for label in spoiled[:20]:
            label[::6, ::6] = DISK
        for label in spoiled[20:]:
            label[:] = 0
        by_name = ratios(mask_statistics(spoiled, reference))
        assert by_name["", "specks"] > 1.5
        assert by_name["", "empty"] > 1.5

    def test_copies(self, reference):
        copies = [np.ascontiguousarray(label[::-1]) for label in masks(80, 0)]
        statistics = mask_statistics(copies, reference)
        assert statistics.novelty == pytest.approx(np.zeros(80))
        assert ratios(statistics)["", "near copies"] > 1.5
        assert not any(line.is_out for line in statistics.lines if line.name in ("area", "count", "share"))

    @pytest.mark.slow
    def test_mirrored_masks_are_alike_where_flips_are_allowed(self):
        mirrored = [np.ascontiguousarray(label[:, ::-1]) for label in masks(60, 3)]
        for allowed in (False, True):
            reference = MaskReference.of(masks(80, 0), NAMES, flips=(False, allowed))
            by_name = ratios(mask_statistics(mirrored, reference))
            assert (by_name["disk", "place"] > 1) is not allowed
            assert (by_name["disk", "heat map"] > 1) is not allowed

    def test_test_masks_are_beside(self, reference):
        lines = {(line.class_name, line.name): line for line in mask_statistics(masks(30, 1), reference).lines}
        assert all(line.value == line.test for line in lines.values())

    def test_the_floor_is_that_of_as_many_masks(self, reference):
        few, many = (mask_statistics(masks(count, 3), reference) for count in (6, 40))
        limits = [{(line.class_name, line.name): line.limit for line in each.lines} for each in (few, many)]
        assert limits[0]["disk", "area"] > limits[1]["disk", "area"]

    def test_the_same_twice(self, reference):
        again = MaskReference.of(masks(80, 0), NAMES, test=masks(30, 1))
        first, second = (mask_statistics(masks(20, 3), each).to_json() for each in (reference, again))
        assert first == second

    def test_the_record_is_json_and_the_table_has_every_class(self, reference):
        statistics = mask_statistics(masks(20, 3), reference)
        json.dumps(statistics.to_json(), allow_nan=False)
        text = "\n".join(statistics.table())
        assert "disk" in text
        assert "line" in text


class TestOddSets:
    def test_classes_of_few_masks_are_not_judged(self):
        training = masks(20, 0, lines=0)
        training[0][:, 40] = LINE
        reference = MaskReference.of(training, NAMES)
        assert reference.judged == (DISK,)

    def test_a_single_training_mask(self):
        reference = MaskReference.of(masks(1, 0), NAMES)
        statistics = mask_statistics(masks(3, 1), reference)
        assert statistics.judged == []
        assert statistics.table() is not None
        json.dumps(statistics.to_json(), allow_nan=False)

    def test_masks_without_a_class_that_training_has(self, reference):
        statistics = mask_statistics([np.zeros((SIDE, SIDE), np.uint8)] * 3, reference)
        json.dumps(statistics.to_json(), allow_nan=False)
        assert any(line.value is None for line in statistics.lines)

    def test_masks_of_several_sizes(self):
        training = [label.repeat(scale, 0).repeat(scale, 1) for scale, label in enumerate(masks(12, 0), 1)]
        reference = MaskReference.of(training, NAMES)
        assert len(mask_statistics(masks(5, 1), reference).judged) > 10
