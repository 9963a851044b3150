"""The cheap rivals: image and label map move alike, and a paste changes what it should and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from evaluations.segmentation.augmentation import Component, DefectBank, standard_augmentation, warped

NO_CLASS = 2
SEEDS = range(60)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def painted(label: Tensor) -> Tensor:
    """Return an image [3, H, W] that shows the label map [H, W]: dark where it is 0, bright where it is 1."""
    return (40 + 160 * label).to(torch.uint8).expand(3, -1, -1).contiguous()


def letter() -> Tensor:
    """Return a label map [64, 48] with an F, which looks different after every flip and turn."""
    label = torch.zeros(64, 48, dtype=torch.int64)
    label[12:52, 14:22] = 1
    label[12:20, 14:36] = 1
    label[28:36, 14:30] = 1
    return label


def augmented(label: Tensor, seed: int, vertical_flip: bool = True) -> tuple[Tensor, Tensor]:
    return standard_augmentation(painted(label), label, seeded(seed), num_classes=NO_CLASS, vertical_flip=vertical_flip)


# ------------------------------------------------------------------------------------------ usual augmentation


def agreement(image: Tensor, label: Tensor) -> float:
    """Return the share of the pixels with a class that the image shows to be of that class."""
    gray = image.float().mean(dim=0)
    middle = (gray[label == 0].median() + gray[label == 1].median()) / 2
    return float(((gray > middle).long() == label)[label != NO_CLASS].float().mean())


def test_image_and_label_map_move_alike() -> None:
    pairs = [augmented(letter(), seed) for seed in SEEDS]
    aligned = np.mean([agreement(image, label) for image, label in pairs])
    assert aligned > 0.98
    assert min(agreement(image, label) for image, label in pairs) > 0.95
    for shift in [(0, 1), (0, -1), (1, 0), (-1, 0)]:  # not even a pixel apart
        moved = np.mean([agreement(image, label.roll(shift, (0, 1))) for image, label in pairs])
        assert moved < aligned - 0.005


@pytest.mark.parametrize(("angle", "shift", "scale"), [(10, (3.0, -5.0), 1.1), (-15, (0, 0), 0.8), (0, (0, 0), 1.0)])
def test_warping_is_that_of_torchvision(angle, shift, scale) -> None:
    generator, margin = seeded(0), 24
    image = nn.functional.interpolate(torch.rand(1, 3, 15, 18, generator=generator), size=(90, 105), mode="bicubic")
    image = (255 * image[0]).clamp(0, 255).to(torch.uint8)
    label = torch.randint(5, (15, 18), generator=generator).repeat_interleave(6, 0).repeat_interleave(6, 1)[:90, :105]
    motion = {"angle": angle, "translate": list(shift), "scale": scale, "shear": [0.0, 0.0]}
    expected = transforms.affine(image, **motion, interpolation=InterpolationMode.BILINEAR)
    ids = transforms.affine(label[None], **motion, interpolation=InterpolationMode.NEAREST)[0]
    found = warped(image, label, angle, shift, scale, margin)
    inner = slice(margin, -margin)
    assert (found[0].int() - expected[:, inner, inner].int()).abs().max() <= 1
    assert (found[1] == ids[inner, inner]).float().mean() > 0.999


def test_types_and_values() -> None:
    inputs = painted(letter()), letter()
    for seed in SEEDS:
        image, label = augmented(letter(), seed)
        assert image.dtype == torch.uint8
        assert label.dtype == torch.int64
        assert image.shape == (3, 64, 48)
        assert label.shape == (64, 48)
        assert set(label.unique().tolist()) <= {0, 1, NO_CLASS}
    image, label = inputs[0].clone(), inputs[1].clone()
    standard_augmentation(image, label, seeded(0), num_classes=NO_CLASS, vertical_flip=True)
    assert torch.equal(image, inputs[0])
    assert torch.equal(label, inputs[1])


def test_every_class_of_many_keeps_its_number() -> None:
    """Numbers are moved, never mixed: between 0 and 900 there must be no 450."""
    label = torch.zeros(32, 32, dtype=torch.int64)
    label[:, 16:] = 900
    for seed in range(10):
        _, moved = standard_augmentation(painted(label % 2), label, seeded(seed), num_classes=1000, vertical_flip=True)
        assert set(moved.unique().tolist()) <= {0, 900, 1000}


@pytest.mark.parametrize(("axis", "vertical_flip", "flips"), [(0, True, True), (0, False, False), (1, False, True)])
def test_flips(axis: int, vertical_flip: bool, flips: bool) -> None:
    """What lies in the first half of the image stays there under the other motions, which are small."""
    label = torch.zeros(64, 64, dtype=torch.int64)
    label[:16] = 1
    label = label if axis == 0 else label.T.contiguous()
    centers = [
        float((augmented(label, seed, vertical_flip)[1] == 1).nonzero()[:, axis].float().mean()) for seed in SEEDS
    ]
    share = np.mean([center > 32 for center in centers])
    assert 0.25 < share < 0.75 if flips else share == 0


def test_motion_stays_within_its_ranges() -> None:
    """A disc in the middle: its area tells the scale, its center the translation."""
    rows, columns = torch.meshgrid(torch.arange(96) - 47.5, torch.arange(64) - 31.5, indexing="ij")
    disc = (rows**2 + columns**2 < 16**2).long()
    scales, shifts = [], []
    for seed in SEEDS:
        where = (augmented(disc, seed)[1] == 1).nonzero().float()
        scales.append((len(where) / int(disc.sum())) ** 0.5)
        shifts.append((where.mean(dim=0) - torch.tensor([47.5, 31.5])).abs())
    assert 0.78 < min(scales) < 0.88
    assert 1.15 < max(scales) < 1.27
    down, right = torch.stack(shifts).amax(dim=0).tolist()
    assert 7.5 < down <= 9.6 + 0.5
    assert 5 < right <= 6.4 + 0.5


def test_colors_vary_a_little() -> None:
    """Stripes of two grays, which tell brightness and contrast, and an orange, which is held against them."""
    label = torch.arange(3).repeat_interleave(16)[:, None].expand(48, 48).contiguous()
    colors = torch.tensor([[60, 60, 60], [140, 140, 140], [150, 110, 70]], dtype=torch.uint8)
    image = colors[label].permute(2, 0, 1).contiguous()
    levels, saturations, hues = [], [], []
    for seed in SEEDS:
        varied, moved = standard_augmentation(image, label, seeded(seed), num_classes=3, vertical_flip=False)
        dark, light, orange = (varied[:, moved == stripe].float().median(dim=1).values.numpy() for stripe in range(3))
        levels.append(dark.mean() + light.mean())
        saturations.append((orange[0] - orange[2]) / (light.mean() - dark.mean()))
        hues.append((orange[1] - orange[2]) / (orange[0] - orange[2]))
    assert 150 < min(levels) < 180  # unchanged it is 200
    assert 220 < max(levels) < 250
    assert 0.85 < min(saturations) < 0.95  # unchanged it is 1
    assert 1.05 < max(saturations) < 1.15
    assert 0.35 < min(hues) < 0.45  # unchanged it is 0.5
    assert 0.55 < max(hues) < 0.65


def test_the_generator_decides_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    for seed in SEEDS:
        torch.manual_seed(1)
        image, label = augmented(letter(), seed)
        assert torch.equal(torch.random.get_rng_state(), before), "drew from the global generator"
        torch.manual_seed(2)
        again, label_again = augmented(letter(), seed)
        assert torch.equal(image, again)
        assert torch.equal(label, label_again)
    assert not torch.equal(augmented(letter(), 0)[1], augmented(letter(), 1)[1])


# -------------------------------------------------------------------------------------------------- copy-paste


def planted(*shapes: tuple[int, list[tuple[int, int]]], size: int = 12) -> tuple[Tensor, Tensor]:
    """Return one image [1, 3, size, size], all pixels of different colors, and its label map with the given pixels.

    shapes: (class, [(row, column), ...]).
    """
    label = torch.zeros(size, size, dtype=torch.int64)
    for class_id, pixels in shapes:
        for row, column in pixels:
            label[row, column] = class_id
    image = torch.stack([torch.arange(size * size).view(size, size) + offset for offset in (0, 50, 100)])
    return image.to(torch.uint8)[None], label[None]


def rectangle(top: int, left: int, height: int, width: int) -> list[tuple[int, int]]:
    return [(top + row, left + column) for row in range(height) for column in range(width)]


HOOK = [(2, 2), (3, 2), (4, 2), (4, 3), (4, 4)]
BLOCK = rectangle(7, 5, 2, 3)


def orientations(component: Component) -> list[tuple[Tensor, Tensor]]:
    """Return pixels and mask in all eight orientations."""
    flipped = [(component.pixels, component.mask), (component.pixels.flip(-1), component.mask.flip(-1))]
    return [
        (pixels.rot90(turns, (-2, -1)), mask.rot90(turns, (-2, -1))) for pixels, mask in flipped for turns in range(4)
    ]


def black(height: int, width: int) -> tuple[Tensor, Tensor]:
    return torch.full((3, height, width), 255, dtype=torch.uint8), torch.zeros(height, width, dtype=torch.int64)


def test_components_are_what_was_planted() -> None:
    images, labels = planted((1, HOOK), (2, BLOCK))
    bank = DefectBank(images, labels, 3)
    assert len(bank) == 2
    hook, block = bank.components
    assert (hook.label, block.label) == (1, 2)
    assert torch.equal(hook.pixels, images[0, :, 2:5, 2:5])
    assert hook.mask.tolist() == [[True, False, False], [True, False, False], [True, True, True]]
    assert torch.equal(block.pixels, images[0, :, 7:9, 5:8])
    assert block.mask.all()


@pytest.mark.parametrize(
    ("shapes", "sizes"),
    [
        ([(1, [(1, 1), (2, 2), (3, 3), (4, 4)])], [4]),  # touching at corners is touching
        ([(1, rectangle(1, 1, 2, 2)), (2, rectangle(1, 3, 2, 2))], [4, 4]),  # but not across classes
        ([(1, rectangle(1, 1, 2, 2)), (1, rectangle(6, 6, 3, 3))], [4, 9]),
        ([(1, rectangle(1, 1, 8, 1) + rectangle(8, 2, 1, 7)), (1, rectangle(2, 5, 2, 2))], [15, 4]),  # in its box
        ([(1, rectangle(1, 1, 1, 3))], []),  # three pixels
        ([(3, rectangle(1, 1, 3, 3))], []),  # of no class
        ([(1, rectangle(0, 0, 6, 12))], [72]),  # half the image
        ([], []),
    ],
)
def test_what_is_a_component(shapes: list[tuple[int, list[tuple[int, int]]]], sizes: list[int]) -> None:
    bank = DefectBank(*planted(*shapes), 3)
    assert [int(component.mask.sum()) for component in bank.components] == sizes


def test_a_class_that_covers_the_image_is_no_component() -> None:
    bank = DefectBank(*planted((1, rectangle(0, 0, 7, 12)), (2, rectangle(8, 1, 3, 3))), 3)
    assert [component.label for component in bank.components] == [2]


def test_components_of_all_images_come_together_and_outlive_them() -> None:
    (first, first_label), (second, second_label) = planted((1, HOOK)), planted((2, BLOCK))
    images = torch.cat([first, second])
    bank = DefectBank(images, torch.cat([first_label, second_label]), 3)
    images.zero_()
    assert [component.label for component in bank.components] == [1, 2]
    assert all(component.pixels.any() for component in bank.components)


@pytest.mark.parametrize("seed", range(40))
def test_a_paste_is_an_exact_copy_and_nothing_else_changes(seed: int) -> None:
    bank = DefectBank(*planted((1, HOOK), (2, BLOCK)), 3)
    image, label = black(9, 10)
    given = image.clone(), label.clone()
    pasted, pasted_label = bank.paste(image, label, seeded(seed), at_most=1)
    assert torch.equal(image, given[0])
    assert torch.equal(label, given[1])
    where = pasted_label != 0
    assert (pasted[:, ~where] == 255).all()
    if not where.any():
        return
    rows, columns = where.any(dim=1).nonzero()[:, 0], where.any(dim=0).nonzero()[:, 0]
    box = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    (class_id,) = set(pasted_label[where].tolist())
    source = next(component for component in bank.components if component.label == class_id)
    assert any(
        torch.equal(mask, where[box]) and torch.equal(pixels[:, mask], pasted[(slice(None), *box)][:, mask])
        for pixels, mask in orientations(source)
        if mask.shape == where[box].shape
    )


def test_all_orientations_and_places_come_up() -> None:
    bank = DefectBank(*planted((1, [(2, 2), (3, 2), (4, 2), (5, 2), (5, 3)])), 2)  # an L, unlike its mirror image
    expected = set()
    for _, mask in orientations(bank.components[0]):
        height, width = mask.shape
        for top in range(5 - height):
            for left in range(5 - width):
                where = torch.zeros(4, 4, dtype=torch.bool)
                where[top : top + height, left : left + width] = mask
                expected.add(str(where.tolist()))
    image, label = black(4, 4)
    pasted = (bank.paste(image, label, seeded(seed), at_most=1)[1] != 0 for seed in range(500))
    found = {str(where.tolist()) for where in pasted if where.any()}
    assert len(expected) == 8 * 3
    assert found == expected


def test_zero_to_three_are_pasted_equally_often() -> None:
    bank = DefectBank(*planted((1, rectangle(1, 1, 2, 2))), 2)
    image, label = black(200, 200)  # so large that two hardly meet
    areas = [int(bank.paste(image, label, seeded(seed))[1].sum()) for seed in range(400)]
    shares = [areas.count(4 * count) / len(areas) for count in range(4)]
    assert sum(shares) > 0.98
    assert all(share == pytest.approx(0.25, abs=0.07) for share in shares)


def test_pasted_over_foreground_and_no_class() -> None:
    bank = DefectBank(*planted((2, BLOCK)), 3)
    image, _ = black(3, 3)
    label = torch.tensor([[1, 1, 1], [3, 3, 3], [0, 0, 0]])
    for seed in range(20):
        pasted, pasted_label = bank.paste(image, label, seeded(seed), at_most=1)
        changed = (pasted != image).any(dim=0)
        assert torch.equal(changed, pasted_label == 2)
        assert torch.equal(pasted_label[~changed], label[~changed])


@pytest.mark.parametrize(
    ("size", "box"), [((8, 4), (6, 1)), ((4, 8), (1, 6)), ((6, 6), None), ((5, 5), ()), ((1, 6), (1, 6))]
)
def test_turned_only_if_it_fits(size: tuple[int, int], box: tuple[int, int] | tuple[()] | None) -> None:
    """A bar of 1 by 6 pixels. box: how it must lie; None: either way; (): not at all."""
    bank = DefectBank(*planted((1, rectangle(3, 3, 1, 6))), 2)
    image, label = black(*size)
    found = []
    for seed in range(100):
        where = bank.paste(image, label, seeded(seed), at_most=1)[1] == 1
        if where.any():
            found.append((int(where.any(dim=1).sum()), int(where.any(dim=0).sum())))
    assert set(found) == ({(6, 1), (1, 6)} if box is None else {box} - {()})
    assert len(found) == 0 if box == () else len(found) > 35  # half of the calls paste


def test_an_empty_bank_changes_nothing() -> None:
    bank = DefectBank(*planted(), 2)
    image, label = painted(letter()), letter()
    pasted, pasted_label = bank.paste(image, label, seeded(0))
    assert len(bank) == 0
    assert torch.equal(pasted, image)
    assert torch.equal(pasted_label, label)
    pasted.zero_()
    assert image.any(), "a copy comes back even then"


def test_the_generator_decides_the_paste() -> None:
    bank = DefectBank(*planted((1, HOOK), (1, BLOCK)), 2)
    results = []
    for seed in range(12):
        image, label = bank.paste(painted(letter()), letter(), seeded(seed))
        torch.rand(3)  # the global generator moves on
        again, label_again = bank.paste(painted(letter()), letter(), seeded(seed))
        assert torch.equal(image, again)
        assert torch.equal(label, label_again)
        results.append(image.numpy().tobytes())
    assert len(set(results)) > 6
