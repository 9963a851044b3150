"""Crops of whole images: where they lie, what they show, and that they depend on seed and step alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from whole import whole_shapes

from evaluations.segmentation.crops import CropPlan, Crops, Late, cut_image, cut_label
from evaluations.whole_images import WholeImages


def drawn(images: WholeImages, plan: CropPlan, *, steps: int = 30, seed: int = 0, **options):
    """Return the crops of some steps, images uint8 [N, S, S, 3] and labels int64 [N, S, S]."""
    crops = Crops(images, plan, batch_size=8, seed=seed, **options)
    batches = [crops[step] for step in range(steps)]
    return torch.cat([pixels for pixels, _ in batches]), torch.cat([labels for _, labels in batches])


def numbered(height: int, width: int) -> WholeImages:
    """Return one image whose pixels tell where they are: row in red, column in green."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return WholeImages((np.stack([rows, columns, rows], -1),), (np.zeros((height, width), int),), ("",), 2)


def shows(labels: torch.Tensor, class_id: int) -> torch.Tensor:
    return (labels == class_id).flatten(1).any(1)


# ------------------------------------------------------------------------------------------------ seed and step


def test_a_batch_depends_on_seed_and_step_alone():
    images = whole_shapes(5)
    first, second = (Crops(images, CropPlan(32), batch_size=3, seed=1) for _ in range(2))
    for step in (4, 0, 4):
        _ = first[9]
        assert all(torch.equal(one, other) for one, other in zip(first[step], second[step], strict=True))
    other = Crops(images, CropPlan(32), batch_size=3, seed=2)
    assert not torch.equal(first[0][0], other[0][0])
    assert not torch.equal(first[0][0], first[1][0])


def test_a_crop_does_not_depend_on_the_size_of_its_batch():
    images = whole_shapes(5)
    few, many = (Crops(images, CropPlan(32), batch_size=count, seed=1) for count in (2, 5))
    assert torch.equal(few[3][0], many[3][0][:2])


def test_processes_that_draw_ahead_change_nothing():
    crops = Crops(whole_shapes(4), CropPlan(24), batch_size=2, seed=0)
    ahead = DataLoader(crops, batch_size=None, sampler=range(2, 5), num_workers=1)
    for step, (pixels, labels) in enumerate(ahead, start=2):
        assert torch.equal(pixels, crops[step][0])
        assert torch.equal(labels, crops[step][1])


# ------------------------------------------------------------------------------------------------------- places


def test_crops_without_augmentation_are_squares_of_the_image_and_reach_its_corners():
    pixels, labels = drawn(numbered(40, 50), CropPlan(32, augment=False), steps=60)
    assert pixels.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert pixels.shape[1:] == (32, 32, 3)
    assert not labels.any()
    tops, lefts = pixels[:, 0, 0, 0], pixels[:, 0, 0, 1]
    assert (pixels[..., 0] == (tops[:, None] + torch.arange(32))[:, :, None]).all()
    assert (pixels[..., 1] == (lefts[:, None] + torch.arange(32))[:, None]).all()
    assert set(tops.tolist()) == set(range(9))
    assert set(lefts.tolist()) == set(range(19))


def test_a_smaller_image_lies_anywhere_in_its_crop_and_is_reflected_with_ignored_pixels():
    pixels, labels = drawn(numbered(20, 50), CropPlan(32, augment=False), steps=60)
    inside = labels != 2
    assert (inside.any(2).sum(1) == 20).all()
    assert set(inside.any(2).int().argmax(1).tolist()) == set(range(13))
    rows = pixels[:, :, 0, 0].int()
    assert (rows.diff(dim=1).abs() == 1).all()  # neighbors stay neighbors


@pytest.mark.parametrize(("top", "left"), [(-3, -4), (5, 2), (-30, 0), (0, 40)])
def test_a_cut_is_reflected_as_numpy_does(top: int, left: int):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    label = rng.integers(0, 3, (7, 9))
    wide = np.pad(image, ((60, 60), (60, 60), (0, 0)), mode="reflect")
    assert np.array_equal(cut_image(image, top, left, 12), wide[60 + top :, 60 + left :][:12, :12])
    wide = np.pad(label, 60, constant_values=5)
    assert np.array_equal(cut_label(label, top, left, 12, 5), wide[60 + top :, 60 + left :][:12, :12])


def test_a_line_of_pixels_is_an_image():
    image = np.arange(3, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    assert cut_image(image, -1, 0, 3)[:, :, 0].tolist() == [[0, 1, 2]] * 3


# --------------------------------------------------------------------------------------------------- foreground


@pytest.mark.parametrize("augment", [False, True])
def test_focused_crops_show_a_class_and_classes_come_alike(augment: bool):
    few = whole_shapes(9).subset([0, 1, 2, 4, 6, 8])  # one image of class 2, five of class 1
    _, labels = drawn(few, CropPlan(24, focus=1, augment=augment))
    first, second = shows(labels, 1), shows(labels, 2)
    assert (first ^ second).all()
    assert abs(float(second.float().mean()) - 0.5) < 0.1


def test_focused_crops_show_the_classes_of_the_plan():
    images = whole_shapes(6)
    _, labels = drawn(images, CropPlan(24, focus=1, augment=False, classes=(2,)))
    assert shows(labels, 2).all()
    assert Crops(images, CropPlan(24, classes=(2,)), batch_size=1, seed=0).classes == (2,)
    every, named = (drawn(images, CropPlan(24, classes=each), steps=3) for each in (None, (1, 2)))
    assert all(torch.equal(one, other) for one, other in zip(every, named, strict=True))


@pytest.mark.parametrize("focus", [0, 0.7])
def test_the_other_crops_lie_anywhere_also_in_good_images(focus: float):
    images = whole_shapes(1, least=24, most=25).joined(whole_shapes(9, good=True, least=24, most=25))
    _, labels = drawn(images, CropPlan(24, focus=focus, augment=False))
    expected = focus + (1 - focus) / 10  # each crop of the first image is the whole image
    assert abs(float(shows(labels, 1).float().mean()) - expected) < 0.08


def test_good_images_alone_can_be_trained_on():
    _, labels = drawn(whole_shapes(3, good=True), CropPlan(24), steps=3)
    assert set(labels.unique().tolist()) <= {0, 3}


def test_components_come_alike_whatever_their_size():
    label = np.zeros((30, 200), np.uint8)
    label[10:20, 5:35] = 1
    label[15, 190] = 1
    images = WholeImages((np.zeros((30, 200, 3), np.uint8),), (label,), ("",), 2)
    _, labels = drawn(images, CropPlan(16, focus=1, augment=False))
    assert abs(float(((labels == 1).flatten(1).sum(1) == 1).float().mean()) - 0.5) < 0.1


def test_a_focused_pixel_lies_anywhere_in_its_crop():
    label = np.zeros((90, 90), np.uint8)
    label[45, 45] = 1
    images = WholeImages((np.zeros((90, 90, 3), np.uint8),), (label,), ("",), 2)
    _, labels = drawn(images, CropPlan(8, focus=1, augment=False), steps=60)
    assert len(torch.nonzero((labels == 1).sum(0))) == 64


def test_weights_say_how_often_images_are_drawn():
    images = whole_shapes(4)  # classes 1, 2, 1, 2
    _, labels = drawn(images, CropPlan(24), steps=3, weights=[1, 0, 1, 0])
    assert not shows(labels, 2).any()
    crops = Crops(images, CropPlan(24), batch_size=1, seed=0, weights=[3, 1, 1, 1])
    drawn_images = [crops._target(crops._chances, np.random.default_rng(index))[0] for index in range(2000)]
    share = np.bincount(drawn_images) / 2000
    assert share[0] == pytest.approx(0.7 * 0.5 * 0.75 + 0.3 * 0.5, abs=0.04)


def test_late_weights_hold_from_their_step_on_and_change_no_other_batch():
    images = whole_shapes(4)  # classes 1, 2, 1, 2
    plain, only = (Crops(images, CropPlan(24), batch_size=4, seed=0, weights=each) for each in (None, [1, 0, 1, 0]))
    crops = Crops(images, CropPlan(24), batch_size=4, seed=0, late=Late(3, only.weights))
    for step in range(6):
        for found, expected in zip(crops[step], (only if step >= 3 else plain)[step], strict=True):
            assert torch.equal(found, expected)
    assert crops.classes == (1, 2)


# ------------------------------------------------------------------------------------------------- augmentation


def test_augmented_crops_inside_an_image_have_no_filled_border():
    images = whole_shapes(1, least=200, most=201, good=True)
    crops = Crops(images, CropPlan(32, focus=0), batch_size=1, seed=0)
    rng = np.random.default_rng(0)
    for _ in range(60):
        pixels, labels = crops._cut(0, (100, 100), rng)
        assert not labels.any()  # 3 outside
        assert int(pixels.min()) > 60  # of noise around 128


def test_augmented_crops_differ_and_plain_ones_do_not():
    images = whole_shapes(1, least=24, most=25)
    plain, _ = drawn(images, CropPlan(24, augment=False), steps=1)
    assert (plain == plain[:1]).all()
    changed, _ = drawn(images, CropPlan(24), steps=1)
    assert len(changed.unique(dim=0)) == 8


def test_mirrored_crops_have_their_classes_exchanged():
    def relabel(label):
        return torch.where(label == 1, 2, torch.where(label == 2, 1, label))

    images = whole_shapes(1)  # of class 1
    _, labels = drawn(images, CropPlan(24, focus=1, relabel=relabel))
    assert 0.35 < float(shows(labels, 2).float().mean()) < 0.65
    assert (shows(labels, 1) ^ shows(labels, 2)).all()
