"""Tiles of whole images: they show all of it, and what is read from them is put together again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.data.tiles import joined, tiles_of
from guided_diffusion.data.transforms import JointTransform

SIDES = st.integers(1, 90)
RESIZE = ("squash", "pad", "crop", "window")


def transform_of(resize: str, scale: float = 1.0) -> JointTransform:
    return JointTransform((16, 24), resize, scale=scale, train=False)


@given(SIDES, SIDES, st.sampled_from(RESIZE), st.sampled_from([1.0, 0.5, 0.3]))
def test_maps_of_tiles_joined_are_those_of_the_image(height, width, resize, scale):
    label = torch.arange(height * width).view(height, width)
    tiles = tiles_of((height, width), transform_of(resize, scale))
    assert np.array_equal(joined([tile.cut(label, -1) for tile in tiles], tiles, (height, width)), label)


@given(SIDES, SIDES, st.sampled_from(RESIZE))
def test_every_pixel_is_read_from_one_tile(height, width, resize):
    times = np.zeros((height, width), int)
    for tile in tiles_of((height, width), transform_of(resize)):
        times[tile.own.slices] += 1
    assert (times == 1).all()


@pytest.mark.parametrize(("resize", "count"), [("squash", 1), ("pad", 1), ("crop", 3), ("window", 12)])
def test_number_of_tiles(resize, count):
    assert len(tiles_of((40, 120), transform_of(resize))) >= count


def test_tiles_beside_each_other_share_a_quarter():
    boxes = [tile.box for tile in tiles_of((16, 500), transform_of("window"))]
    assert all(first.right - second.left >= 6 for first, second in pairwise(boxes))
    assert boxes[0].left == 0
    assert boxes[-1].right == 500


def test_a_tile_shows_what_its_box_covers():
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    for tile in tiles_of((40, 60), transform_of("window")):
        assert torch.equal(tile.placement.image(image), image[(..., *tile.box.slices)])


@pytest.mark.parametrize("resize", RESIZE)
def test_edges_stay_where_they_are(resize):
    """A bright block of the image is found again in the box where the tile shows it bright."""
    image = torch.zeros(1, 64, 96, dtype=torch.uint8)
    image[:, 20:44, 30:66] = 255
    truth = image[0] > 127
    for tile in tiles_of((64, 96), transform_of(resize, 0.5)):
        seen = tile.placement.image(image).float()[None]
        shown = torch.nn.functional.interpolate(seen, size=tile.box.size, mode="bilinear")[0, 0] > 127
        wrong = shown != tile.cut(truth, False)
        assert wrong.float().mean() < 0.05
