"""Which pixels outlines cover, against other implementations and by properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from guided_diffusion.data.formats.regions import Bitmap, Polygons, rectangle, ring_of

SIZE = 20, 26
coordinates = st.floats(-6, 34, allow_nan=False, width=32)
rings = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=7).map(
    lambda points: np.array(points, float)
)


def covered(region, size=SIZE) -> np.ndarray:
    painted = region.paint(size)
    label = np.zeros(size, bool)
    height, width = painted.bits.shape
    label[painted.top : painted.top + height, painted.left : painted.left + width] = painted.bits
    return label


@given(st.integers(3, 7), st.integers(0, 10_000))
def test_centers_inside_are_covered(count, seed):
    """matplotlib decides point by point; a star around a point has no crossing edges."""
    random = np.random.default_rng(seed)
    angles = np.sort(random.random(count)) * 2 * np.pi
    radius = random.random((count, 1)) * 14 + 1
    ring = random.random(2) * SIZE[::-1] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    inside = Outline(ring).contains_points(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(SIZE)
    assert np.array_equal(covered(Polygons((ring,), "centers")), inside)


@given(st.integers(0, 10_000))
def test_neighbors_share_no_pixel_and_leave_none_out(seed):
    """A rectangle cut by a line, whose halves have corners anywhere, on centers, too."""
    random = np.random.default_rng(seed)
    x0, y0, x1, y1 = 2.5, 3.5, 21.5, 16.5
    top, bottom = np.round(random.uniform(x0, x1, 2) * 2) / 2
    left = np.array([(x0, y0), (top, y0), (bottom, y1), (x0, y1)])
    right = np.array([(top, y0), (x1, y0), (x1, y1), (bottom, y1)])
    halves = [covered(Polygons((half,), "centers")) for half in (left, right)]
    whole = covered(Polygons((rectangle(x0, y0, x1, y1),), "centers"))
    assert not (halves[0] & halves[1]).any()
    assert np.array_equal(halves[0] | halves[1], whole)


def distance_to_outline(ring: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the distance of each of N points to the nearest edge of a ring, [N]."""
    start, edge = ring[None], np.roll(ring, -1, axis=0)[None] - ring[None]
    length = (edge**2).sum(2)
    along = ((points[:, None] - start) * edge).sum(2) / np.where(length > 0, length, 1)
    nearest = start + along.clip(0, 1)[..., None] * edge
    return np.sqrt(((points[:, None] - nearest) ** 2).sum(2)).min(1)


@given(rings)
@example(np.array([(0.0, 0.0), (0.0, 1.0), (21.25, 21.25)]))  # a diagonal through 20 centers
def test_order_and_direction_do_not_matter(ring):
    label = covered(Polygons((ring,), "centers"))
    assert np.array_equal(label, covered(Polygons((np.roll(ring, 2, axis=0),), "centers")))
    # Centers that lie on the outline are decided by rounding, which the direction changes.
    differing = np.argwhere(label != covered(Polygons((ring[::-1],), "centers")))
    assert (distance_to_outline(ring, differing[:, ::-1] + 0.5) < 1e-9).all()


@given(rings)
def test_corners_are_covered(ring):
    label = covered(Polygons((ring,), "corners"))
    for x, y in np.trunc(ring).astype(int):
        if 0 <= x < SIZE[1] and 0 <= y < SIZE[0]:
            assert label[y, x]


def test_rectangles_by_both_rules():
    ring = rectangle(3, 4, 9, 8)
    assert covered(Polygons((ring,), "centers")).sum() == 6 * 4
    label = covered(Polygons((ring,), "corners"))
    assert label.sum() == 7 * 5
    assert label[4:9, 3:10].all()


def test_what_is_outside_or_cut_is_said():
    inside, cut, outside = (Polygons((rectangle(x, 2, x + 6, 8),), "centers").paint(SIZE) for x in (3, 23, 40))
    assert [(p.cut, p.outside) for p in (inside, cut, outside)] == [(False, False), (True, False), (True, True)]
    tiny = Polygons((rectangle(3.6, 3.6, 4.4, 4.4),), "centers").paint(SIZE)
    assert not tiny.bits.any()
    assert not tiny.outside


def test_bitmaps_are_cut_at_the_border():
    bits = np.ones((4, 5), bool)
    painted = Bitmap((4, 5), lambda: bits, top=18, left=-2).paint(SIZE)
    assert (painted.top, painted.left, painted.bits.shape, painted.cut) == (18, 0, (2, 3), True)
    assert Bitmap((4, 5), lambda: bits, top=30).paint(SIZE).outside
    with pytest.raises(ValueError, match="5x4"):
        Bitmap((4, 5), lambda: bits, whole=True).paint(SIZE)
    with pytest.raises(ValueError, match="larger"):
        Bitmap((40, 5), lambda: np.ones((40, 5), bool)).paint(SIZE)


@pytest.mark.parametrize("numbers", [[1, 2, 3], [1, float("nan")], [float("inf"), 0], [1e7, 0]])
def test_absurd_corners_are_refused(numbers):
    with pytest.raises(ValueError, match="coordinate"):
        ring_of(numbers)
