"""Augmentation that does not leak: image, mask and parameters say the same, and the parameters say all of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from guided_diffusion.conditions.augmentation import AUGMENT_PARAMETERS
from guided_diffusion.data.augmentation import BRIGHTNESS_UNIT, LARGEST, SCALE_UNIT, SHIFT_UNIT, Augmentation
from guided_diffusion.data.datasets import ExampleKey, SegmentationDataset
from guided_diffusion.data.holes import HoleMaker
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import index_pairs
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.data.windows import plan_windows

ENCODING = LabelEncoding.identity(4)
SIDE = 32
LEVELS = torch.tensor([30, 90, 150, 210, 0], dtype=torch.uint8)  # of the classes and the border
RESIZES = ("squash", "crop", "pad", "window")


@pytest.fixture
def pairs(build):
    """Pictures of blocks whose gray level tells the class."""
    rng = np.random.default_rng(1)
    masks = {f"m{i}": rng.integers(0, 4, (2 + i, 3), np.uint8).repeat(24, 0).repeat(24, 1) for i in range(3)}
    images = {f"{name}.png": LEVELS.numpy()[mask] for name, mask in masks.items()}
    return index_pairs(build(masks, images=images), get_mode("multi-class"), "train")[0]


def dataset(pairs, *, resize: str = "window", augment: float = 1.0, train: bool = True, **options):
    transform = JointTransform((SIDE, SIDE), resize, train=train, random_flip=False, **options.pop("transform", {}))
    return SegmentationDataset(pairs, ENCODING, transform, image_channels=1, augment=augment, **options)


def examples(data: SegmentationDataset, epochs: int = 8) -> list[dict]:
    return [data[ExampleKey(epoch, index, 0, 1.0)] for epoch in range(epochs) for index in range(len(data))]


@pytest.mark.parametrize("resize", RESIZES)
def test_image_and_mask_stay_together_and_borders_are_black_null_and_outside(pairs, resize):
    borders = counted = 0
    for example in examples(dataset(pairs, resize=resize)):
        label, inside, brightness = example["label"], example["inside"], float(example["augment"][-1])
        gray = (example["image"][0] + 1) * 127.5
        if resize != "pad":
            assert (label[~inside] == 4).all()
            assert (inside & (label == 4)).float().mean() < 0.05  # pixels that lie in the picture by half
        assert not gray[~inside if resize != "pad" else (label == 4) & inside].any()
        wanted = (LEVELS[label.long()].float() + 255 * BRIGHTNESS_UNIT * brightness).clamp(0, 255)
        around = torch.nn.functional.max_pool2d(torch.stack([label, 4 - label])[None].float(), 7, 1, 3)[0]
        within = (label != 4) & (around[0] == label) & (around[1] == 4 - label)  # nothing is mixed there
        within[:3], within[-3:], within[:, :3], within[:, -3:] = False, False, False, False
        counted += int(within.sum())
        assert (gray - wanted)[within].abs().max() < 4
        borders += int((~inside).sum())
    assert borders > 0
    assert counted > 2000


@pytest.mark.parametrize("resize", RESIZES)
def test_an_example_is_a_function_of_its_key(pairs, resize):
    first, second = (examples(dataset(pairs, resize=resize), 2) for _ in range(2))
    assert all(torch.equal(a[key], b[key]) for a, b in zip(first, second, strict=True) for key in ("image", "augment"))
    other = examples(dataset(pairs, resize=resize, seed=1), 2)
    assert not any(torch.equal(a["augment"], b["augment"]) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("resize", RESIZES)
def test_off_is_as_before_and_rarely_augmented_examples_are_those_of_none(pairs, resize):
    plain, rare = (examples(dataset(pairs, resize=resize, augment=augment)) for augment in (0.0, 0.1))
    assert all("augment" not in example for example in plain)
    untouched = 0
    for before, after in zip(plain, rare, strict=True):
        if not after["augment"].any():
            untouched += 1
            assert torch.equal(before["image"], after["image"])
            assert torch.equal(before["label"], after["label"])
            assert torch.equal(before.get("inside", torch.ones(SIDE, SIDE, dtype=torch.bool)), after["inside"])
    assert len(rare) / 3 < untouched < len(rare)


def test_what_is_shown_and_sampled_is_not_augmented(pairs):
    assert all(not example["augment"].any() for example in examples(dataset(pairs, augment=1e-9)))
    shown = SegmentationDataset(pairs, ENCODING, JointTransform((SIDE, SIDE), "window", train=False), image_channels=1)
    assert "augment" not in shown[ExampleKey(0, 0, 0, 1.0)]


def test_each_augmentation_has_its_probability_and_its_parameters():
    generator = torch.Generator().manual_seed(0)
    transform = JointTransform((64, 64), "window", train=False)
    rows = []
    for _ in range(4000):
        drawn = Augmentation.draw(0.3, generator, square=True)
        rows.append(drawn.applied(transform.place((300, 300))).parameters())
    found = torch.stack(rows)
    assert found.shape[1] == len(AUGMENT_PARAMETERS)
    shares = (found != 0).float().mean(0)
    # Half of the flips do nothing, and so does a quarter of the turns; shifts are rounded to whole pixels.
    expected = torch.tensor([0.15, 0.15, 0.15, 0.15, 0.3, 0.3, 0.3, 0.3])
    assert (shares - expected).abs().max() < 0.03
    assert found[:, :4].unique().tolist() == [0, 1]
    assert found.abs().max() <= LARGEST + 0.2
    units = found[:, 4:]
    assert all(0.75 < float(column[column != 0].std()) < 1.05 for column in units.T)
    assert not any(Augmentation.draw(1.0, generator, square=False).turns for _ in range(50))


def numbered(size: tuple[int, int]) -> torch.Tensor:
    return torch.arange(size[0] * size[1]).view(size)


@pytest.mark.parametrize("leaky", [{}, {"hflip": True}, {"vflip": True, "turns": 1}, {"hflip": True, "turns": 3}])
def test_parameters_tell_the_change_whatever_was_mirrored_before(leaky):
    """Equal parameters mean the same change of the picture that they augment."""
    transform = JointTransform((64, 64), "window", train=False)
    before = replace(transform.place((200, 200)), **leaky)
    canonical = before.mask(numbered((200, 200)), -1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(30):
        drawn = Augmentation.draw(0.6, generator, square=True)
        after = replace(drawn, scale=0.0).applied(before)
        mirrored, upside, first, second, _, down, right, _ = after.parameters().tolist()
        shift = [round(units * SHIFT_UNIT * 64) for units in (down, right)]
        turns = {(0, 0): 0, (1, 0): 1, (1, 1): 2, (0, 1): 3}[int(first), int(second)]
        flips = [dim for dim, flip in ((1, mirrored), (0, upside)) if flip]
        wanted = canonical.roll(shift, (0, 1)).flip(flips).rot90(turns)
        valid = torch.ones(64, 64, dtype=torch.bool)
        for dim, step in enumerate(shift):  # what was rolled in from the other side is something else
            edge = slice(0, step) if step > 0 else slice(64 + step, 64)
            valid[(slice(None),) * dim + (edge,)] = False
        valid = valid.flip(flips).rot90(turns)
        found = after.mask(numbered((200, 200)), -1)
        assert torch.equal(found[valid], wanted[valid])


@pytest.mark.parametrize("units", [-LARGEST, -0.7, 0.4, LARGEST])
def test_scale_is_about_the_middle(units):
    transform = JointTransform((64, 64), "window", train=False)
    placement = Augmentation(scale=units).applied(transform.place((300, 300)))
    rows = placement.mask(torch.arange(300)[:, None].expand(300, 300), -1)[:, 0].float()
    assert abs(float(rows.mean()) - 149.5) <= 1
    assert float(rows[-1] - rows[0] + 1) == pytest.approx(64 / 2 ** (units * SCALE_UNIT), rel=0.05)
    assert placement.inside().all()


def test_thin_defects_survive_being_reduced_by_area():
    label = torch.zeros(100, 100, dtype=torch.uint8)
    label[:, 47] = 1
    transform = JointTransform((40, 40), "window", train=False)
    placement = Augmentation(scale=-1.5).applied(transform.place((100, 100)))
    assert (placement.label(label, 4) == 1).any(1).all()


def test_left_and_right_change_places_in_what_is_mirrored():
    label = torch.zeros(40, 40, dtype=torch.uint8)
    label[:, :10], label[:, 30:] = 1, 2
    transform = JointTransform((40, 40), "squash", train=False)
    for before in (transform.place((40, 40)), replace(transform.place((40, 40)), hflip=True)):
        before = replace(before, flip_pairs=((1, 2),))
        for augmentation in (Augmentation(hflip=True), Augmentation(hflip=True, scale=-0.8)):
            found = augmentation.applied(before).label(label, 4)
            assert found[20, 8] == 1
            assert found[20, 31] == 2
        turned = Augmentation(hflip=True, vflip=True).applied(before).label(label, 4)
        assert turned[20, 8] == 2  # turned, not mirrored


def test_a_picture_smaller_than_the_window_stays_in_sight(build):
    mask = np.ones((5, 4), np.uint8)
    pairs = index_pairs(build({"m": mask}, images={"m.png": mask * 200}), get_mode("multi-class"), "train")[0]
    for example in examples(dataset(pairs), 60):
        assert example["inside"].any()
        assert (example["label"][~example["inside"]] == 4).all()
        assert (example["label"] == 1).any()


def test_holes_and_edges_follow_the_augmented_mask(pairs):
    plan = plan_windows([[] for _ in pairs], focus=0.0, good_images=0)
    data = dataset(pairs, with_edges=True, holes=HoleMaker((1, 0, 0), (1, 2, 3)), windows=plan)
    for example in examples(data, 4):
        label, edge, hole = example["label"].int(), example["edge"], example["hole"]
        differs = torch.zeros_like(edge)
        differs[1:] |= label[1:] != label[:-1]
        differs[:-1] |= label[1:] != label[:-1]
        differs[:, 1:] |= label[:, 1:] != label[:, :-1]
        differs[:, :-1] |= label[:, 1:] != label[:, :-1]
        inner = example["inside"] & (label != 4)
        assert ((edge == differs) | ~inner).float().mean() > 0.95
        assert any(hole[label == class_id].all() for class_id in (1, 2, 3) if (label == class_id).any())


def test_brightness_at_random_leaves_the_border_black(build):
    mask = np.zeros((20, 20), np.uint8)
    pairs = index_pairs(build({"m": mask}, images={"m.png": mask + 100}), get_mode("multi-class"), "train")[0]
    seen = set()
    for example in examples(dataset(pairs, augment=0.0, transform={"brightness": 0.3}), 6):
        gray = (example["image"][0] + 1) * 127.5
        assert not gray[~example["inside"]].any()
        seen.add(round(float(gray[example["inside"]].mean())))
    assert len(seen) > 3
