from __future__ import annotations

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
    image, placed = transform((mask * 255)[None], mask, generator(seed), null_id=NULL)
    assert image.shape == (1, *target)
    assert placed.shape == target
    assert image.dtype == placed.dtype == torch.uint8
    known = placed != NULL
    assert (known.all() and policy != "pad") or policy == "pad"
    assert (image[0][~known] == 0).all()
    # A pixel whose eight neighbors have its class is at least one pixel from any boundary: image and mask agree there.
    inner = F.pad(placed.float()[None, None], (1, 1, 1, 1), mode="replicate")
    low, high = -F.max_pool2d(-inner, 3, 1)[0, 0], F.max_pool2d(inner, 3, 1)[0, 0]
    error = (image[0] / 255 - placed.float()).abs()[known & (low == high)]
    assert error.numel() == 0 or error.max() < 0.5


@pytest.mark.parametrize("policy", POLICIES)
def test_a_picture_of_the_right_size_is_kept(policy):
    mask = torch.randint(0, 200, (32, 32), dtype=torch.uint8)
    image, placed = JointTransform((32, 32), policy, train=False)(mask[None], mask, null_id=NULL)
    assert torch.equal(image[0], mask)
    assert torch.equal(placed, mask)


def test_masks_get_no_new_values():
    mask = torch.randint(0, 2, (77, 53)) * 300
    for policy in POLICIES:
        placed = JointTransform((32, 24), policy, train=True)(None, mask, generator(), null_id=999)[1]
        assert set(placed.unique().tolist()) <= {0, 300, 999}


def test_center_crop_takes_the_middle():
    mask = torch.arange(8, dtype=torch.uint8).expand(4, 8)
    assert JointTransform((4, 4), "crop", train=False)(None, mask, null_id=NULL)[1][0].tolist() == [2, 3, 4, 5]


def test_pad_centers_the_picture_and_says_where():
    transform = JointTransform((8, 8), "pad", train=False)
    placed = transform(None, torch.ones(4, 8, dtype=torch.uint8), null_id=NULL)[1]
    assert transform.place((4, 8)).content == (2, 0, 4, 8)
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
        top, left, height, width = JointTransform((20, 40), policy).place((10, 20), generator()).content
        assert (top, left, height, width) == (0, 0, 20, 40)


def test_placement_is_a_function_of_the_generator_and_options_do_not_disturb_each_other():
    size = (50, 70)
    plain = JointTransform((32, 32), random_flip=False).place(size, generator(3))
    assert plain == JointTransform((32, 32), random_flip=False).place(size, generator(3))
    turned = JointTransform((32, 32), random_flip=True, vertical_flip=True, rotate90=True).place(size, generator(3))
    assert (plain.scaled, plain.offset) == (turned.scaled, turned.offset)


def test_quarter_turns_need_a_square():
    with pytest.raises(ConfigError, match=r"rotate90: needs a square image_size, found \[32, 16\]"):
        JointTransform((32, 16), rotate90=True)
    with pytest.raises(ConfigError, match="rotate90"):
        augment_mask(torch.zeros(4, 6, dtype=torch.uint8), generator(), rotate90=True)


def test_augmented_masks_take_all_eight_positions_and_edges_follow():
    label = torch.arange(16, dtype=torch.uint8).view(4, 4)
    edge = label % 3 == 0
    seen = set()
    for seed in range(120):
        turned, turned_edge = augment_mask(label, generator(seed), edge=edge, vertical_flip=True, rotate90=True)
        assert torch.equal(turned_edge, turned % 3 == 0)
        assert sorted(turned.view(-1).tolist()) == list(range(16))
        seen.add(tuple(turned.view(-1).tolist()))
    assert len(seen) == 8
