"""Edits of parts: thin ones stay whole, borders stay touched, and pixels follow the mask."""

import math

import numpy as np
import pytest
from defects import BAND, CRACK, SPOT, bank_of, blank, crack, disk
from scipy import ndimage

from guided_diffusion.data.placing.bank import Borders
from guided_diffusion.data.placing.edit import draw_edit, edit_part

SIZES = [(80, 100), (40, 300), (301, 50)]


def pieces(mask: np.ndarray) -> int:
    return ndimage.label(mask, np.ones((3, 3)))[1]


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def test_a_part_that_is_not_edited_keeps_its_pixels():
    (part,) = bank_of(crack(blank(), 20, 60, 31)).parts
    edited = edit_part(part, (200, 200))
    assert np.array_equal(edited.mask, part.mask)
    image = np.random.default_rng(0).random((*part.image_size, 3), np.float32)
    box = part.box
    expected = image[box.top - 4 : box.bottom + 4, box.left - 4 : box.right + 4]
    np.testing.assert_allclose(edited.warp(image, 4), expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(30))
def test_cracks_of_two_pixels_stay_in_one_piece_and_keep_their_area(seed):
    (part,) = bank_of(crack(blank(), 20, 60, 45)).parts
    rng = np.random.default_rng(seed)
    scale, angle = math.exp(rng.uniform(math.log(0.8), math.log(1.25))), rng.uniform(-15, 15)
    edited = edit_part(part, (200, 200), scale=scale, angle=angle, bend=rng)
    assert pieces(edited.mask) == 1
    assert edited.mask.sum() / (part.area * scale**2) == pytest.approx(1, abs=0.12)
    assert not np.array_equal(edited.mask, part.mask)


@pytest.mark.parametrize("angle", [0, 12, 45])
def test_lines_of_one_pixel_are_not_torn(angle):
    label = blank()
    label[np.arange(20, 60), np.arange(20, 60)] = CRACK
    (part,) = bank_of(label).parts
    edited = edit_part(part, (200, 200), angle=angle, bend=np.random.default_rng(3)) or edit_part(part, (200, 200))
    assert pieces(edited.mask) == 1
    assert edited.mask.sum() > 0.7 * part.area


def test_scale_and_angle_are_those_asked_for():
    label = blank((200, 200))
    label[95:105, 60:140] = SPOT  # lies
    (part,) = bank_of(label).parts
    height, width = edit_part(part, (200, 200), scale=1.2, angle=90).mask.shape
    assert height == pytest.approx(96, abs=1)
    assert width == pytest.approx(12, abs=1)
    label = blank((200, 200))
    label[60:140, 98:102] = label[60:64, 98:140] = SPOT  # a leg to the right at the upper end
    (part,) = bank_of(label).parts
    turned = edit_part(part, (200, 200), angle=90).mask  # counterclockwise: the leg is up, at the left end
    assert turned[:20, :4].mean() > 0.9 > 0.1 > turned[:20, 10:].mean()


@pytest.mark.parametrize("seed", range(8))
def test_pixels_follow_the_mask(seed):
    (part,) = bank_of(disk(blank(), 40, 50, 14, SPOT)).parts
    edited = draw_edit(part, (200, 200), np.random.default_rng(seed))
    source = disk(blank(), 40, 50, 14, SPOT) == SPOT
    assert agreement(edited.warp(source.astype(np.uint8)) > 0.5, edited.mask) > 0.95
    wide = edited.warp(source.astype(np.uint8), 10)
    assert wide.shape == (edited.mask.shape[0] + 20, edited.mask.shape[1] + 20)
    np.testing.assert_array_equal(wide[10:-10, 10:-10], edited.warp(source.astype(np.uint8)))
    assert not (wide > 0.5)[:8].any()


BORDER_PARTS = {
    "top": np.s_[:12, 30:50],
    "left": np.s_[20:40, :9],
    "bottom": np.s_[60:, 30:50],
    "right": np.s_[20:40, 80:],
    "corner": np.s_[:20, 85:],
    "across": np.s_[30:50, :],
    "down": np.s_[:, 40:60],
    "below": np.s_[50:, :],
    "all": np.s_[:, :],
}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("where", BORDER_PARTS)
def test_parts_touch_the_borders_that_they_touched_in_images_of_all_sizes(where, size):
    label = blank()
    label[BORDER_PARTS[where]] = BAND
    (part,) = bank_of(label).parts
    for seed in range(6):
        edited = draw_edit(part, size, np.random.default_rng(seed))
        top, left = edited.position((0.3 * size[0], 0.6 * size[1]), size)
        height, width = edited.mask.shape
        assert Borders(top == 0, left == 0, top + height == size[0], left + width == size[1]) == part.borders
        # and with a pixel of their own at each of them
        rows, columns = edited.mask.any(axis=1), edited.mask.any(axis=0)
        assert rows[0]
        assert rows[-1]
        assert columns[0]
        assert columns[-1]


@pytest.mark.parametrize("seed", range(4))
def test_pixels_at_a_border_come_from_that_border(seed):
    label = blank()
    label[20:60, :9] = BAND
    (part,) = bank_of(label).parts
    edited = draw_edit(part, (300, 300), np.random.default_rng(seed))
    assert edited.bending is not None
    height, width = edited.mask.shape
    _, columns = edited.source_of(np.arange(height), np.arange(width))
    assert np.abs(columns[:, 0]).max() < 0.6  # half a pixel of scaling, and the little bending that is left there


def test_parts_at_borders_are_not_turned():
    label = blank()
    label[20:60, :9] = BAND
    (part,) = bank_of(label).parts
    assert np.array_equal(edit_part(part, (300, 300), angle=15).mask, part.mask)


def test_pixels_of_a_part_that_is_stretched_follow_its_mask():
    label = blank()
    label[30:50, :] = BAND
    (part,) = bank_of(label).parts
    edited = draw_edit(part, (120, 250), np.random.default_rng(0))
    assert edited.mask.shape[1] == 250
    assert agreement(edited.warp((label == BAND).astype(float)) > 0.5, edited.mask) > 0.95


def test_a_part_larger_than_the_image_is_made_to_fit_as_it_is():
    (part,) = bank_of(disk(blank((300, 300)), 150, 150, 60, SPOT)).parts
    edited = edit_part(part, (100, 90))
    assert edited.position((50, 45), (100, 90)) is not None
    height, width = edited.mask.shape
    assert height == pytest.approx(width, abs=1)
    assert height == pytest.approx(121 * 90 / 300, abs=2)


@pytest.mark.parametrize("scale", [1.1, 1.2, 1.25])
def test_a_part_that_fits_as_it_is_stays_as_large_where_it_may_not_grow(scale):
    label = blank((1000, 1000))
    label[400:600, 400:430] = SPOT
    (part,) = bank_of(label).parts
    edited = edit_part(part, (224, 224), scale=scale)
    assert part.area <= edited.mask.sum() <= part.area * scale**2 * 1.05


def test_the_same_seed_gives_the_same_edit():
    (part,) = bank_of(disk(blank(), 40, 50, 14, SPOT)).parts
    masks = [draw_edit(part, (200, 200), np.random.default_rng(seed)).mask for seed in (5, 5, 6)]
    assert np.array_equal(masks[0], masks[1])
    assert not (masks[0].shape == masks[2].shape and np.array_equal(masks[0], masks[2]))
