"""Reduction by area against the same in fractions, pixel by pixel."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_diffusion.data.area import (
    cover_sums,
    covered,
    enlarge_part,
    reduce_image,
    reduce_label,
    reduce_label_at,
    reduce_label_part,
    reduce_part,
)

BACKGROUND, NULL = 0, 5
RULE = {"background": BACKGROUND, "null_id": NULL}

sizes = st.tuples(st.integers(1, 13), st.integers(1, 13))


def shares(pixel: int, old: int, new: int) -> dict[int, Fraction]:
    """Return how much of each original row a reduced one covers, as a share of the reduced one."""
    start, end = Fraction(pixel * old, new), Fraction((pixel + 1) * old, new)
    overlap = {row: min(end, Fraction(row + 1)) - max(start, Fraction(row)) for row in range(old)}
    return {row: share / (end - start) for row, share in overlap.items() if share > 0}


def means(values: np.ndarray, reduced: tuple[int, int]) -> list[list[Fraction]]:
    height, width = values.shape
    return [
        [
            sum(
                down * across * int(values[row, column])
                for row, down in shares(y, height, reduced[0]).items()
                for column, across in shares(x, width, reduced[1]).items()
            )
            for x in range(reduced[1])
        ]
        for y in range(reduced[0])
    ]


def class_of(label: np.ndarray, reduced: tuple[int, int]) -> list[list[int]]:
    ids, counts = np.unique(label, return_counts=True)
    rarest_first = [int(class_id) for _, class_id in sorted(zip(counts, ids, strict=True))]
    cover = {class_id: means(label == class_id, reduced) for class_id in rarest_first}

    def choose(y: int, x: int) -> int:
        foreground = [class_id for class_id in rarest_first if class_id not in (BACKGROUND, NULL)]
        best = max(foreground, key=lambda class_id: cover[class_id][y][x], default=None)
        if best is not None and cover[best][y][x] >= Fraction(35, 100):
            return best
        return max(rarest_first, key=lambda class_id: cover[class_id][y][x])

    return [[choose(y, x) for x in range(reduced[1])] for y in range(reduced[0])]


def random_label(size: tuple[int, int], seed: int, classes: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, size)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(size=sizes, reduced=sizes, seed=st.integers(0, 1000), data=st.data())
def test_means_are_exact_also_of_a_part(size, reduced, seed, data):
    values = np.random.default_rng(seed).integers(0, 65536, size)
    expected = means(values, reduced)
    spans = []
    for length in reduced:
        start = data.draw(st.integers(0, length - 1))
        spans.append((start, data.draw(st.integers(start + 1, length))))
    rows, columns = spans
    part = [row[slice(*columns)] for row in expected[slice(*rows)]]
    whole = size[0] * size[1]
    image = torch.from_numpy(values)[None]
    assert cover_sums(image, reduced, rows, columns)[0].tolist() == [[value * whole for value in row] for row in part]
    box = covered(size, reduced, rows, columns)
    floats = reduce_part(image[(..., *box.slices)], size, reduced, rows, columns)[0]
    assert np.allclose(floats, np.array(part, float), rtol=1e-12, atol=0)
    rounded = [[(2 * value.numerator + value.denominator) // (2 * value.denominator) for value in row] for row in part]
    assert reduce_image(image.int(), reduced, rows, columns)[0].tolist() == rounded
    assert torch.allclose(reduce_image(image.double(), reduced, rows, columns)[0], floats, rtol=1e-12, atol=0)


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(size=sizes, reduced=sizes, seed=st.integers(0, 10_000), classes=st.integers(1, 6), data=st.data())
def test_classes_follow_the_area_rule(size, reduced, seed, classes, data):
    label = random_label(size, seed, classes)
    label = np.where(label == 4, NULL, label)
    expected = np.array(class_of(label, reduced))
    tensor = torch.from_numpy(label.astype(np.uint8))
    assert reduce_label(tensor, reduced, (0, reduced[0]), (0, reduced[1]), **RULE).tolist() == expected.tolist()
    top, left = (data.draw(st.integers(0, length - 1)) for length in reduced)
    part = reduce_label(tensor, reduced, (top, reduced[0]), (left, reduced[1]), **RULE)
    assert part.dtype == torch.uint8
    assert part.tolist() == expected[top:, left:].tolist()
    rows, columns = (index.ravel() for index in np.indices(reduced))
    counts = np.bincount(label.ravel(), minlength=NULL + 1)
    assert reduce_label_at(label, counts, reduced, rows, columns, **RULE).tolist() == expected.ravel().tolist()


def reduced_row(*values: int, others: tuple[int, ...] = ()) -> int:
    """Return the class of one pixel over these pixels; `others` are elsewhere in the picture."""
    row = torch.tensor([[*values, *others, *[BACKGROUND] * (len(values) - len(others))]])
    return reduce_label(row, (1, 2), (0, 1), (0, 1), **RULE).item()


def test_lines_that_cover_a_third_of_a_pixel_and_more_survive():
    assert reduced_row(1, *[0] * 2) == 0  # 0.333
    assert reduced_row(*[1] * 7, *[0] * 13) == 1  # 0.35
    assert reduced_row(*[1] * 6, *[0] * 14) == 0  # 0.3
    assert reduced_row(*[1] * 7, *[NULL] * 13) == 1
    assert reduced_row(*[1] * 6, *[NULL] * 14) == NULL
    assert reduced_row(*[1] * 7, *[2] * 8, *[0] * 5) == 2
    assert reduced_row(*[1] * 4, *[2] * 3, *[3] * 3) == 1
    assert reduced_row(1, 1, 2, 2, 3, 3, 0, 0, 0) == 0


def test_of_equal_covers_the_rarer_class_is_taken_whatever_its_number():
    for rare, common in ((1, 2), (2, 1)):
        assert reduced_row(1, 2, others=(common,)) == rare
        assert reduced_row(1, 1, 2, 2, 0, others=(common,)) == rare
    assert reduced_row(BACKGROUND, NULL, others=(BACKGROUND,)) == NULL
    assert reduced_row(NULL, BACKGROUND, others=(NULL, NULL)) == BACKGROUND
    part = torch.tensor([[2, 1]])
    assert reduce_label_part(part, (1, 2), (1, 1), (0, 1), (0, 1), **RULE).item() == 1


def test_a_thin_line_survives_at_half_size():
    label = torch.zeros(40, 40, dtype=torch.uint8)
    label[torch.arange(40), torch.arange(40)] = 1  # half of the pixels on the diagonal
    label[:, 7] = 2
    reduced = reduce_label(label, (20, 20), (0, 20), (0, 20), **RULE)
    assert reduced.diagonal()[4:].eq(1).all()
    assert reduced[:3, 3].eq(2).all()
    assert reduced[4:, 3].eq(2).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_types_are_kept_and_many_classes_work(dtype):
    classes = 183 if dtype == torch.uint8 else 300
    label = torch.from_numpy(random_label((37, 53), 0, classes)).to(dtype)
    reduced = reduce_label(label, (14, 20), (3, 11), (5, 20), background=classes - 1, null_id=classes)
    assert (reduced.dtype, reduced.shape) == (dtype, (8, 15))


def test_a_window_of_a_large_picture_touches_its_own_part_only():
    large = torch.zeros(1, 3000, 4000, dtype=torch.uint8)
    part = reduce_image(large, (1500, 2000), (700, 764), (100, 164))
    assert part.shape == (1, 64, 64)
    assert covered((3000, 4000), (1500, 2000), (700, 764), (100, 164)).size == (128, 128)


@pytest.mark.parametrize(
    ("size", "reduced", "rows", "columns"),
    [((40, 60), (20, 30), (3, 17), (0, 30)), ((41, 67), (15, 25), (2, 15), (4, 20)), ((9, 9), (9, 9), (0, 9), (2, 9))],
)
def test_an_enlarged_picture_has_the_means_it_was_made_of(size, reduced, rows, columns):
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(2, rows[1] - rows[0], columns[1] - columns[0])))
    enlarged = enlarge_part(values, size, reduced, rows, columns)
    assert tuple(enlarged.shape[1:]) == covered(size, reduced, rows, columns).size
    assert torch.allclose(reduce_part(enlarged, size, reduced, rows, columns), values)
    flat = torch.full_like(values, 0.3)
    assert torch.allclose(enlarge_part(flat, size, reduced, rows, columns), torch.tensor(0.3).double())
