"""Recombined layouts: functions of seed and number, with classes that a real one has, and objects on their hosts."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from guided_diffusion.data.boxes.asked import AskedLayout, AskedObject, background_of
from guided_diffusion.data.boxes.recombine import ON_HOST, Recombiner

PLATE, SPOT, CRACK = 1, 2, 3


def layout(name: str, *objects: tuple[int, tuple[float, float, float, float]], surface: int = 0) -> AskedLayout:
    asked = [AskedObject(class_id, box, number) for number, (class_id, box) in enumerate(objects, start=1)]
    lineage = {"split": "train", "masks": [{"mask": name, "digest": name}], "images": []}
    return AskedLayout(name, (background_of(surface), *asked), lineage=lineage)


LAYOUTS = [
    layout("a", (PLATE, (0.1, 0.1, 0.6, 0.6)), (SPOT, (0.2, 0.2, 0.3, 0.3)), (SPOT, (0.4, 0.4, 0.5, 0.5))),
    layout("b", (PLATE, (0.3, 0.2, 0.9, 0.8)), (SPOT, (0.6, 0.3, 0.7, 0.5))),
    layout("c", (CRACK, (0.0, 0.45, 1.0, 0.5)), (SPOT, (0.7, 0.7, 0.75, 0.8))),
    layout("d", (CRACK, (0.2, 0.0, 0.3, 0.6)), surface=4),
    layout("e"),
]
MADE = [Recombiner(LAYOUTS).make(7, index) for index in range(200)]


def classes(asked: AskedLayout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    own = sorted(each.class_id for each in asked.objects if not each.is_background)
    return tuple(each.class_id for each in asked.objects if each.is_background), tuple(own)


def test_a_layout_is_a_function_of_seed_and_number():
    again = Recombiner(LAYOUTS)
    assert [again.make(7, index) for index in reversed(range(200))][::-1] == MADE
    assert [again.make(8, index) for index in range(20)] != MADE[:20]
    assert len({tuple(each.box for each in made.objects) for made in MADE if len(made.objects) > 1}) > 100


def test_classes_are_those_of_a_real_layout():
    real = {classes(asked) for asked in LAYOUTS}
    found = Counter(classes(made) for made in MADE)
    assert set(found) == real
    assert [each.number for each in MADE[0].objects] == list(range(len(MADE[0].objects)))


def test_boxes_have_area_and_lie_in_the_image():
    boxes = np.array([each.box for made in MADE for each in made.objects])
    assert (boxes >= 0).all()
    assert (boxes <= 1).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_what_lies_on_another_object_stays_on_it():
    seen = 0
    for made in MADE:
        plates = [each.box for each in made.objects if each.class_id == PLATE]
        for each in made.objects:
            if plates and each.class_id == SPOT:
                (x0, y0, x1, y1), (left, top, right, bottom) = each.box, plates[0]
                shared = max(0, min(x1, right) - max(x0, left)) * max(0, min(y1, bottom) - max(y0, top))
                assert shared >= ON_HOST * (x1 - x0) * (y1 - y0) - 1e-9
                seen += 1
    assert seen > 50


def test_no_overlap_where_the_layout_has_none():
    for made in MADE:
        spots = [each.box for each in made.objects if each.class_id == SPOT]
        for one, two in pairwise(spots):
            apart = [one[2] <= two[0], two[2] <= one[0], one[3] <= two[1], two[3] <= one[1]]
            assert any(apart), "the two spots of a are apart"


def test_boxes_are_exchanged_on_one_surface_alone_and_origins_are_kept():
    donors = [tuple(file["digest"] for file in made.lineage["masks"]) for made in MADE]
    assert {each for each in donors if each[0] == "d"} == {("d",)}
    assert {"a", "b", "c"} & {name for each in donors if each[0] == "a" for name in each[1:]} == {"b"}
    assert all(made.lineage["split"] == "train" for made in MADE)


def test_a_crack_through_the_image_stays_one():
    for made in MADE:
        for each in made.objects:
            if each.class_id == CRACK and classes(made)[0] == (0,):
                assert (each.box[0], each.box[2]) == pytest.approx((0, 1))


def test_borders_are_those_of_the_picture_where_it_does_not_fill_the_image():
    """Of 64 px in height and 32 in width; its rows are not whole ones at the network's size."""
    object_at_top = AskedObject(SPOT, (0.4, 0.2505, 0.6, 0.4), 1)
    in_the_middle = AskedObject(CRACK, (0.1, 0.45, 0.3, 0.55), 2)
    padded = AskedLayout("p", (object_at_top, in_the_middle), inside=(16, 48, 0, 32))
    made = [Recombiner([padded], (64, 32)).make(3, index) for index in range(200)]
    tops = {each.box[1] for asked in made for each in asked.objects if each.class_id == SPOT}
    assert tops == {0.25}
    boxes = np.array([each.box for asked in made for each in asked.objects])
    assert boxes[:, 1].min() >= 0.25
    assert boxes[:, 3].max() <= 0.75
    assert len({tuple(box) for box in boxes}) > 200
