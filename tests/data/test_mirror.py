"""Classes called left and right change places in mirrored examples, and only there."""

from __future__ import annotations

import pytest
import torch

from guided_diffusion.data.mirror import exchanged, flip_pairs, without_partner
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.transforms import JointTransform, augment_mask
from guided_diffusion.runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["background", "left lung", "right lung"], {(1, 2)}),
        (["skin", "l_brow", "r_brow", "l_lip", "u_lip"], {(1, 2)}),  # l_lip is the lower lip
        (["EyeLeft", "EyeRight", "LeftEar", "RightEar"], {(0, 1), (2, 3)}),
        (["LEFT-LANE", "RIGHT-LANE"], {(0, 1)}),
        (["hand.left", "hand.right", "hand"], {(0, 1)}),
        (["leftover", "rightover", "bright", "cleft"], set()),
        (["left lung", "heart"], set()),
        (["Left lung", "right Lung"], {(0, 1)}),
        (["left", "right", "Left", "Right"], {(0, 1), (2, 3)}),
        (["left arm", "right leg"], set()),
        (["background", "R", "C", "L"], set()),  # resistors, capacitors, inductors
        (["background", "l_h", "r_h", "L1", "R1"], {(1, 2)}),
    ],
)
def test_pairs_by_name(names, pairs):
    assert set(flip_pairs(names)) == pairs


def test_sides_without_a_partner():
    names = ["left eye", "right eye", "left arm", "rightleg", "bright spot", "cleft"]
    assert without_partner(names, flip_pairs(names)) == ["left arm", "rightleg"]


def test_published_modes():
    names = get_mode("celeba").names
    paired = {frozenset((names[a], names[b])) for a, b in flip_pairs(names)}
    assert paired == {frozenset((f"left {part}", f"right {part}")) for part in ("eye", "brow", "ear")}
    for mode in ("cityscapes", "ade20k", "coco"):
        assert not flip_pairs(get_mode(mode).names or ())


def test_pairs_as_asked():
    names = ["ground", "a", "b", "left", "right"]
    assert flip_pairs(names, [("a", "b")]) == ((1, 2),)
    assert flip_pairs(names, []) == ()
    for wrong in ([("a", "c")], [("a", "b"), ("b", "left")]):
        with pytest.raises(ConfigError) as error:
            flip_pairs(names, wrong)
        assert error.value.path == "flip_pairs"


def test_exchanging_keeps_other_classes_and_is_its_own_inverse():
    label = torch.arange(6, dtype=torch.uint8).reshape(2, 3)
    swapped = exchanged(label, ((1, 4), (2, 3)))
    assert swapped.tolist() == [[0, 4, 3], [2, 1, 5]]
    assert swapped.dtype == label.dtype
    assert torch.equal(exchanged(swapped, ((1, 4), (2, 3))), label)
    assert torch.equal(exchanged(torch.zeros(2, 2, dtype=torch.uint8), ((1, 4),)), torch.zeros(2, 2))


# The left half of a body is class 1, the right half 2; a mirrored body still has its left on its left.
BODY = torch.tensor([[1, 1, 2, 2]] * 4, dtype=torch.uint8)
BODY[0, :] = 0


@pytest.mark.parametrize("vertical", [False, True])
def test_a_mirrored_example_has_the_sides_of_its_content(vertical):
    transform = JointTransform((4, 4), "squash", vertical_flip=vertical, flip_pairs=((1, 2),))
    seen = set()
    for seed in range(40):
        placement = transform.place((4, 4), torch.Generator().manual_seed(seed))
        placed, swapped = placement.mask(BODY, 3), placement.label(BODY, 3)
        mirrored = placement.hflip != placement.vflip
        assert torch.equal(swapped, exchanged(placed, ((1, 2),)) if mirrored else placed)
        seen.add((placement.hflip, placement.vflip))
        if placement.hflip and not placement.vflip:
            assert torch.equal(swapped, BODY)  # the mirror image of this body is itself
    assert len(seen) == (4 if vertical else 2)


def test_augmented_masks_of_sampling():
    swapped = 0
    for seed in range(20):
        label, _ = augment_mask(BODY, None, torch.Generator().manual_seed(seed), ((1, 2),))
        plain, _ = augment_mask(BODY, None, torch.Generator().manual_seed(seed))
        swapped += not torch.equal(label, plain)
        assert torch.equal(label, plain) or torch.equal(label, exchanged(plain, ((1, 2),)))
    assert 0 < swapped < 20
