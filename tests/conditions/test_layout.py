"""Layouts: empty slots, dropping, concatenation, and the styles of objects."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from guided_diffusion.conditions.layout import EMPTY_BOX, LayoutCondition, object_styles

CLASSES = 4


def layouts(label: list[list[int]], *, seed: int = 0) -> LayoutCondition:
    draw = torch.Generator().manual_seed(seed)
    shape = (len(label), len(label[0]))
    box = torch.rand(*shape, 2, 2, generator=draw).sort(dim=2).values.flatten(2)
    style = torch.randn(*shape, 3, generator=draw)
    return LayoutCondition(torch.tensor(label), box, style, CLASSES, (6, 8))


def test_a_dropped_layout_has_empty_slots_only():
    given = layouts([[0, 1, 2], [0, 3, CLASSES]])
    dropped = given.drop(torch.tensor([True, False]))
    assert not dropped.present[0].any()
    assert torch.equal(dropped.box[0], torch.tensor(EMPTY_BOX).expand(3, 4))
    assert not dropped.style[0].any()
    assert torch.equal(dropped.label[1], given.label[1])
    assert torch.equal(dropped.box[1], given.box[1])
    assert not given.null().present.any()


def test_objects_can_be_taken_out():
    given = layouts([[0, 1, 2]])
    left = given.without(torch.tensor([[False, True, False]]))
    assert left.present.tolist() == [[True, False, True]]
    assert torch.equal(left.box[:, ::2], given.box[:, ::2])


def test_layouts_of_different_lengths_join():
    one, two = layouts([[0, 1, 2, 3]]), layouts([[0, 1], [0, 2]])
    joined = LayoutCondition.cat([one, two])
    assert joined.label.tolist() == [[0, 1, 2, 3], [0, 1, CLASSES, CLASSES], [0, 2, CLASSES, CLASSES]]
    assert torch.equal(joined.box[1:, :2], two.box)
    assert torch.equal(joined.box[1, 2], torch.tensor(EMPTY_BOX))
    assert torch.equal(joined.style[1:, :2], two.style)
    assert (joined.box.dtype, joined.label.dtype) == (torch.float32, torch.int64)
    with pytest.raises(AssertionError, match="several kinds"):
        LayoutCondition.cat([one, replace(two, background=False)])


def test_shapes_have_to_agree():
    with pytest.raises(AssertionError, match="box"):
        replace(layouts([[0, 1]]), box=torch.zeros(1, 3, 4))


def test_the_style_of_an_object_depends_on_nothing_but_its_place():
    styles = object_styles(3, 5, 4, 128)
    assert torch.equal(object_styles(3, 5, 7, 128)[:4], styles)
    for other in (object_styles(4, 5, 4, 128), object_styles(3, 6, 4, 128), styles.roll(1, 0)):
        assert (other - styles).abs().amax(dim=1).min() > 0.5
    many = object_styles(0, 0, 200, 64)
    assert abs(many.mean()) < 0.05
    assert abs(many.std() - 1) < 0.05
    assert object_styles(0, 0, 0, 8).shape == (0, 8)
