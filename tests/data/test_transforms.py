from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from guided_diffusion.data.transforms import JointTransform, augment_mask
from guided_diffusion.runtime.errors import ConfigError

POLICIES = ["crop", "squash", "pad"]
NULL = 255


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blocks(height: int, width: int, seed: int) -> torch.Tensor:
    """Return a mask of 0 and 1 in large patches, so that most pixels are far from a boundary."""
    coarse = torch.randint(0, 2, (3, 3), generator=generator(seed), dtype=torch.uint8)
    return coarse[torch.arange(height)[:, None] * 3 // height, torch.arange(width)[None] * 3 // width]


@settings(max_examples=80, deadline=None)
@given(
    size=st.tuples(st.integers(20, 90), st.integers(20, 90)),
    target=st.sampled_from([(32, 32), (24, 40), (48, 16)]),
    policy=st.sampled_from(POLICIES),
    train=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_an_image_that_is_its_mask_stays_aligned(size, target, policy, train, seed):
    mask = blocks(*size, seed)
    transform = JointTransform(
        target, policy, random_flip=True, vertical_flip=True, rotate90=target[0] == target[1], train=train
    )
    placement = transform.place(size, generator(seed))
    image, placed = placement.image((mask * 255)[None]), placement.mask(mask, NULL)
    assert image.shape == (1, *target)
    assert placed.shape == target
    assert image.dtype == placed.dtype == torch.uint8
    known = placed != NULL
    assert (known.all() and policy != "pad") or policy == "pad"
    assert (image[0][~known] == 0).all()
    # A pixel whose eight neighbors have its class is at least one pixel from any boundary: image and mask agree there.
    # A pixel at the window's edge has unknown neighbors outside.
    inner = placed.float()[None, None]
    low, high = -F.max_pool2d(-inner, 3, 1)[0, 0], F.max_pool2d(inner, 3, 1)[0, 0]
    error = (image[0] / 255 - placed.float()).abs()[1:-1, 1:-1][known[1:-1, 1:-1] & (low == high)]
    assert error.numel() == 0 or error.max() < 0.5


@pytest.mark.parametrize("policy", POLICIES)
def test_a_picture_of_the_right_size_is_kept(policy):
    mask = torch.randint(0, 200, (32, 32), dtype=torch.uint8)
    placement = JointTransform((32, 32), policy, train=False).place((32, 32))
    assert torch.equal(placement.image(mask[None])[0], mask)
    assert torch.equal(placement.mask(mask, NULL), mask)


def test_masks_get_no_new_values():
    mask = torch.randint(0, 2, (77, 53)) * 300
    for policy in POLICIES:
        placed = JointTransform((32, 24), policy).place((77, 53), generator()).mask(mask, 999)
        assert set(placed.unique().tolist()) <= {0, 300, 999}


def test_center_crop_takes_the_middle():
    mask = torch.arange(8, dtype=torch.uint8).expand(4, 8)
    placed = JointTransform((4, 4), "crop", train=False).place((4, 8)).mask(mask, NULL)
    assert placed[0].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize(("old", "new"), [(694, 43), (6, 4), (5, 10), (7, 7), (1, 3), (1001, 64)])
def test_a_pixel_of_a_mask_takes_the_value_at_its_center(old, new):
    placed = JointTransform((1, new), "squash", train=False).place((1, old)).mask(torch.arange(old)[None], NULL)
    assert placed[0].tolist() == [math.floor(Fraction(2 * pixel + 1, 2) * old / new) for pixel in range(new)]


def test_pad_centers_the_picture():
    placed = JointTransform((8, 8), "pad", train=False).place((4, 8)).mask(torch.ones(4, 8, dtype=torch.uint8), NULL)
    assert (placed[2:6] == 1).all()
    assert (placed[:2] == NULL).all()
    assert (placed[6:] == NULL).all()


def test_random_crop_has_the_published_scales():
    transform = JointTransform((64, 64), "crop")
    draws = generator()
    lengths = {min(transform.place((100, 150), draws).scaled) for _ in range(600)}
    assert lengths == set(range(64, 81))


def test_whole_pictures_without_crop():
    for policy in ("squash", "pad"):
        placement = JointTransform((20, 40), policy).place((10, 20), generator())
        assert (placement.scaled, placement.offset, placement.size) == ((20, 40), (0, 0), (20, 40))


def test_placement_is_a_function_of_the_generator_and_options_do_not_disturb_each_other():
    size = (50, 70)
    plain = JointTransform((32, 32), random_flip=False).place(size, generator(3))
    assert plain == JointTransform((32, 32), random_flip=False).place(size, generator(3))
    turned = JointTransform((32, 32), random_flip=True, vertical_flip=True, rotate90=True).place(size, generator(3))
    assert (plain.scaled, plain.offset) == (turned.scaled, turned.offset)


def test_quarter_turns_need_a_square():
    with pytest.raises(ConfigError) as error:
        JointTransform((32, 16), rotate90=True)
    assert error.value.path == "rotate90"
    assert "[32, 16]" in error.value.found


def test_augmented_masks_take_all_eight_positions_and_edges_follow():
    label = torch.arange(16, dtype=torch.uint8).view(4, 4)
    edge = label % 3 == 0
    seen = set()
    for seed in range(120):
        turned, turned_edge = augment_mask(label, edge, generator(seed))
        assert torch.equal(turned_edge, turned % 3 == 0)
        assert sorted(turned.view(-1).tolist()) == list(range(16))
        seen.add(tuple(turned.view(-1).tolist()))
    assert len(seen) == 8
    assert augment_mask(label[:2], None, generator())[0].shape == (2, 4)
