"""Windows: what they show, how often, and that image, mask, edges and border stay together."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_diffusion.data.area import reduce_image, reduce_label
from guided_diffusion.data.components import Box, find_components
from guided_diffusion.data.transforms import JointTransform, Target
from guided_diffusion.data.windows import WindowPlan, boxes_of, numbers, plan_windows, point_of, target_in
from guided_diffusion.runtime.errors import ConfigError

NULL = 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def pictures_with_a_box(draw):
    size = draw(st.tuples(st.integers(5, 90), st.integers(5, 90)))
    spans = []
    for side in size:
        start = draw(st.integers(0, side - 1))
        spans.append((start, draw(st.integers(start + 1, side))))
    point = tuple(draw(st.integers(start, end - 1)) for start, end in spans)
    (top, bottom), (left, right) = spans
    return size, Target(Box(top, left, bottom, right), point)


@settings(max_examples=300, deadline=None)
@given(
    picture=pictures_with_a_box(),
    window=st.sampled_from([(32, 32), (16, 40), (8, 8)]),
    scale=st.sampled_from([1.0, 0.5, 0.37]),
    seed=st.one_of(st.none(), st.integers(0, 100)),
)
def test_a_window_shows_its_target_and_the_whole_component_where_it_fits(picture, window, scale, seed):
    size, target = picture
    transform = JointTransform(window, "window", scale=scale, train=seed is not None)
    placement = transform.place(size, None if seed is None else generator(seed), target)
    assert placement.size == window
    box = target.box
    for axis, (first, last) in enumerate(((box.top, box.bottom), (box.left, box.right))):
        full, length, offset = placement.scaled[axis], window[axis], placement.offset[axis]
        if full >= length:
            assert 0 <= offset <= full - length, "no border where the picture is large enough"
        else:
            assert full - length <= offset <= 0, "all of a smaller picture is seen"
        point = (2 * target.point[axis] + 1) * full // (2 * size[axis])  # the pixel that has its center
        touched = target.point[axis] * full // size[axis]
        assert offset <= touched < offset + length
        assert offset <= point < offset + length or point != touched
        start, end = first * full // size[axis], -(-last * full // size[axis])
        if end - start <= length:
            assert offset <= start
            assert end <= offset + length


def test_components_are_not_always_central_and_reach_every_place():
    transform, target = JointTransform((16, 16), "window"), Target(Box(40, 40, 44, 46), (41, 43))
    offsets = {transform.place((90, 90), generator(seed), target).offset for seed in range(600)}
    assert {row for row, _ in offsets} == set(range(44 - 16, 41))
    assert {column for _, column in offsets} == set(range(46 - 16, 41))
    corner = Target(Box(88, 0, 90, 1), (89, 0))
    assert {transform.place((90, 90), generator(seed), corner).offset for seed in range(50)} == {(74, 0)}
    anywhere = {transform.place((18, 10), generator(seed)).offset for seed in range(300)}
    assert anywhere == {(row, column) for row in range(3) for column in range(-6, 1)}


@settings(max_examples=80, deadline=None)
@given(
    size=st.tuples(st.integers(5, 60), st.integers(5, 60)),
    scale=st.sampled_from([1.0, 0.5, 0.37]),
    seed=st.integers(0, 500),
)
def test_image_mask_and_border_stay_together(size, scale, seed):
    rng = np.random.default_rng(seed)
    label = torch.from_numpy(rng.integers(0, 4, size).astype(np.uint8))
    image = torch.stack([label, label]) * 60
    transform = JointTransform((16, 16), "window", scale=scale, vertical_flip=True, rotate90=True)
    placement = transform.place(size, generator(seed))
    inside, seen, placed = placement.inside(), placement.image(image), placement.label(label, NULL)
    assert inside.shape == placed.shape == seen.shape[1:] == (16, 16)
    assert torch.equal(placed != NULL, inside)
    assert (seen[:, ~inside] == 0).all()
    whole = (0, placement.scaled[0]), (0, placement.scaled[1])
    whole_image = reduce_image(image, placement.scaled, *whole)
    whole_label = reduce_label(label, placement.scaled, *whole, background=0, null_id=NULL)
    if scale == 1:
        assert torch.equal(whole_image, image)
        assert torch.equal(whole_label, label)
    # Every pixel of the window comes from one place of image and mask alike.
    numbers_of = torch.arange(1, whole_label.numel() + 1).view(placement.scaled)
    (top, bottom), (left, right) = placement.seen
    cut = placement._finish(numbers_of[top:bottom, left:right], 0)
    assert torch.equal(cut > 0, inside)
    assert torch.equal(whole_label.flatten()[cut[inside] - 1], placed[inside])
    assert torch.equal(whole_image.flatten(1)[:, cut[inside] - 1], seen[:, inside])


def test_flips_and_turns_are_as_often_as_elsewhere_and_need_a_square():
    transform = JointTransform((8, 8), "window", vertical_flip=True, rotate90=True)
    drawn = Counter()
    for seed in range(400):
        placement = transform.place((30, 30), generator(seed))
        drawn[placement.hflip, placement.vflip, placement.turns] += 1
    assert len(drawn) == 16
    with pytest.raises(ConfigError) as error:
        JointTransform((8, 16), "window", rotate90=True)
    assert error.value.path == "rotate90"


def test_left_and_right_change_places_in_mirrored_windows():
    label = torch.tensor([[1, 2]], dtype=torch.uint8).repeat_interleave(8, 1).repeat(16, 1)
    transform = JointTransform((8, 8), "window", scale=0.5, flip_pairs=((1, 2),))
    mirrored = [transform.place((16, 16), generator(seed)) for seed in range(20)]
    for placement in mirrored:
        assert placement.label(label, NULL)[0].tolist() == [1] * 4 + [2] * 4
    assert {placement.hflip for placement in mirrored} == {True, False}


# ------------------------------------------------------------------------------------------- which window is laid


def plan_of(focus: float = 0.8, good_images: int = 3) -> WindowPlan:
    labels = [torch.zeros(40, 40, dtype=torch.uint8) for _ in range(5)]
    for index in range(20):  # many small ones of class 1
        labels[0][2 * (index // 5), 4 * (index % 5)] = 1
    labels[3][30:39, 20:40] = 2
    labels[4][0:3, 0:3] = 2
    return plan_windows([boxes_of(label, (1, 2, 3)) for label in labels], focus=focus, good_images=good_images)


def test_classes_are_drawn_evenly_among_those_that_have_any():
    plan, draws = plan_of(), 6000
    source = generator(1)
    found = [plan.draw(source) for _ in range(draws)]
    classes = Counter(class_id for _, class_id, _ in found)
    assert set(classes) == {None, 1, 2}
    assert classes[None] / draws == pytest.approx(0.2, abs=0.02)
    assert classes[1] / draws == pytest.approx(0.4, abs=0.02)
    assert classes[2] / draws == pytest.approx(0.4, abs=0.02)
    expected = plan.expected(draws)
    assert expected == {1: (20, pytest.approx(draws * 0.02)), 2: (2, pytest.approx(draws * 0.2))}
    boxes = Counter((class_id, index, box.top, box.left) for index, class_id, box in found if box is not None)
    assert len(boxes) == 22
    for (class_id, *_), count in boxes.items():
        assert count == pytest.approx(expected[class_id][1], rel=0.35)
    elsewhere = Counter(index for index, class_id, _ in found if class_id is None)
    assert set(elsewhere) == set(range(8)), "pairs and good images alike"
    assert min(elsewhere.values()) > 0.6 * draws * 0.2 / 8


@pytest.mark.parametrize(("focus", "shown"), [(0.0, {None}), (1.0, {1, 2})])
def test_the_share_of_windows_on_defects_may_be_none_or_all(focus, shown):
    plan, source = plan_of(focus), generator()
    assert {plan.draw(source)[1] for _ in range(200)} == shown
    empty = plan_windows([boxes_of(torch.zeros(4, 4, dtype=torch.uint8), (1,))], focus=focus, good_images=0)
    assert empty.draw(source) == (0, None, None)
    assert empty.expected(100) == {}


def test_targets_are_pixels_of_their_class():
    label = torch.zeros(20, 20, dtype=torch.uint8)
    label[3:9, 4] = 1
    label[8, 4:12] = 1
    (component,) = find_components(label.numpy(), (1,))
    points = {point_of(label, 1, component.box, draw).point for draw in np.linspace(0, 0.999, 60)}
    assert points == {tuple(point) for point in torch.nonzero(label == 1).tolist()}
    assert point_of(label, 2, component.box, 0.5) is None
    label[15, 15] = 3
    assert target_in(label, (1, 2, 3)).box == component.box, "the largest"
    drawn = Counter(target_in(label, (1, 2, 3), numbers(generator(seed)).__next__).box for seed in range(300))
    assert set(drawn) == {component.box, Box(15, 15, 16, 16)}
    assert min(drawn.values()) > 110, "classes are drawn evenly, not pixels"
    assert target_in(label, (2,)) is None


# --------------------------------------------------------------------------------------------------- as examples
