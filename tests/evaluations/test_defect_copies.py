"""Copied defects are found on any ground, and defects that share no more than a mask are not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from evaluations.blending import paste
from evaluations.defect_copies import FEWEST_DEFECTS, SIDE, DefectTextures, defect_texture, find_defect_copies
from evaluations.symmetry import SYMMETRIES, apply_d4

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
NUM_CLASSES = 2
NUM_TRAINING = 24  # of each class


class Painted:
    """A defect: an image [h, w, C] around it, its mask [h, w] and its class."""

    def __init__(self, image: Pixels, mask: Mask, class_id: int) -> None:
        self.image, self.mask, self.class_id = image, mask, class_id

    @property
    def texture(self) -> NDArray[np.float64]:
        return defect_texture(self.image, self.mask)


def ground(rng: np.random.Generator, shape: tuple[int, ...], strength: float = 6) -> NDArray[np.float64]:
    """Return a background of its own brightness with grain."""
    grain = ndimage.gaussian_filter(rng.normal(size=shape), (1, 1, 0)) * 3.5
    return rng.uniform(90, 160) + strength * grain


def rounded(image: NDArray[np.floating]) -> Pixels:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def mask_of(rng: np.random.Generator, class_id: int) -> Mask:
    """Return a blob for class 0 and a wavy line for class 1, in its box with 2 pixels around it."""
    if class_id == 0:
        mask = ndimage.gaussian_filter(rng.normal(size=(40, 40)), 5)
        mask = ndimage.label(mask > np.quantile(mask, 0.8))[0] == 1  # one of its parts
    else:
        mask = np.zeros((40, 50), bool)
        rows = 20 + np.cumsum(rng.integers(-1, 2, 50)).clip(-18, 16)
        for column, row in enumerate(rows):
            mask[row : row + 3, column] = True
    box = ndimage.find_objects(mask.astype(int))[0]
    return np.pad(mask[box], 2)


def defect(rng: np.random.Generator, class_id: int, mask: Mask | None = None) -> Painted:
    """Return a dark defect with a texture of its own, of the given mask or one of its own."""
    while mask is None or mask.sum() < 40:
        mask = mask_of(rng, class_id)
    shape = (*mask.shape, 3)
    inside = rng.uniform(-60, -40) + 15 * ndimage.gaussian_filter(rng.normal(size=shape), (1, 1, 0)) * 3.5
    return Painted(rounded(ground(rng, shape) + inside * mask[..., None]), mask, class_id)


def copied(rng: np.random.Generator, source: Painted, symmetry: int, noise: int = 2) -> Painted:
    """Return the defect pasted into a new ground, flipped or turned, with noise and another brightness."""
    image, mask = apply_d4(source.image, symmetry), apply_d4(source.mask[..., None], symmetry)[..., 0]
    pasted = paste(ground(rng, image.shape), image.astype(float), mask, 0, 0, True)
    return Painted(rounded(pasted + rng.integers(-noise, noise + 1, image.shape)), mask, source.class_id)


def textures_of(defects: list[Painted]) -> DefectTextures:
    return DefectTextures.of([each.texture for each in defects], [each.class_id for each in defects])


@pytest.fixture(scope="module")
def training() -> list[Painted]:
    rng = np.random.default_rng(0)
    return [defect(rng, class_id) for class_id in range(NUM_CLASSES) for _ in range(NUM_TRAINING)]


def test_copies_are_found_under_flips_and_turns(training: list[Painted]) -> None:
    rng = np.random.default_rng(1)
    order = rng.permutation(len(training))[: 2 * len(SYMMETRIES)]
    copies = [copied(rng, training[source], number % len(SYMMETRIES)) for number, source in enumerate(order)]
    found = find_defect_copies(textures_of(copies), textures_of(training))
    np.testing.assert_array_equal(found.index, order)
    np.testing.assert_array_equal(found.symmetry, np.arange(len(order)) % len(SYMMETRIES))
    assert found.share == 1
    assert found.flagged.tolist() == list(range(len(order)))


def test_others_are_not(training: list[Painted]) -> None:
    rng = np.random.default_rng(2)
    others = [defect(rng, number % NUM_CLASSES) for number in range(40)]
    found = find_defect_copies(textures_of(others), textures_of(training), textures_of(others[:10]))
    assert found.judged == 40
    assert found.share == found.training_share == found.real_share == 0


def test_a_mask_of_the_training_data_is_no_copy(training: list[Painted]) -> None:
    rng = np.random.default_rng(3)
    others = [defect(rng, each.class_id, each.mask) for each in training]
    found = find_defect_copies(textures_of(others), textures_of(training))
    assert found.judged == len(others)
    assert found.share == 0


def test_contrast_and_smooth_light_do_not_hide_a_copy(training: list[Painted]) -> None:
    copies = []
    for each in training:
        height, width = each.mask.shape
        light = np.linspace(-15, 15, height)[:, None, None] + np.linspace(10, -10, width)[None, :, None]
        copies.append(Painted(rounded((each.image - 60.0) * 0.7 + 80 + light), each.mask, each.class_id))
    found = find_defect_copies(textures_of(copies), textures_of(training))
    np.testing.assert_array_equal(found.index, np.arange(len(training)))
    assert found.share == 1


def test_copies_are_found_among_defects_that_are_all_there_twice(training: list[Painted]) -> None:
    rng = np.random.default_rng(6)
    twice = [*training, *(copied(rng, each, 0) for each in training)]
    copies = [copied(rng, each, number % len(SYMMETRIES)) for number, each in enumerate(training[::4])]
    placed = textures_of([*copies, *(defect(rng, number % NUM_CLASSES) for number in range(10))])
    found = find_defect_copies(placed, textures_of(twice))
    assert found.flagged.tolist() == list(range(len(copies)))
    assert found.training_share == 1


def test_repeated_real_defects_are_told(training: list[Painted]) -> None:
    rng = np.random.default_rng(4)
    repeated = [copied(rng, each, 0) for each in training[:6]]
    held_out = [defect(rng, 0) for _ in range(3)] + [copied(rng, training[10], 0)]
    found = find_defect_copies(textures_of([defect(rng, 0)]), textures_of(training + repeated), textures_of(held_out))
    assert found.training_share == pytest.approx(12 / 54)
    assert found.real_share == pytest.approx(1 / 4)
    assert found.share == 0


def test_classes_are_compared_with_themselves(training: list[Painted]) -> None:
    copy = copied(np.random.default_rng(5), training[0], 0)
    copy.class_id = 1
    found = find_defect_copies(textures_of([copy]), textures_of(training))
    assert found.index[0] >= NUM_TRAINING
    assert found.share == 0


def test_what_cannot_be_judged_is_counted(training: list[Painted]) -> None:
    """A class nobody has, one with too few defects, a flat and a tiny defect."""
    rare = [Painted(each.image, each.mask, 7) for each in training[: FEWEST_DEFECTS - 1]]
    tiny = np.zeros((9, 9), bool)
    tiny[3:6, 3:8] = True
    placed = [
        Painted(training[0].image, training[0].mask, 5),
        Painted(training[0].image, training[0].mask, 7),
        Painted(np.full_like(training[0].image, 9), training[0].mask, 0),
        Painted(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8), tiny, 0),
        training[1],
    ]
    found = find_defect_copies(textures_of(placed), textures_of(training + rare))
    assert found.judged == 1
    assert np.isnan(found.score[:4]).all()
    assert found.index.tolist() == [-1, -1, -1, -1, 1]
    assert found.flagged.tolist() == [4]
    record: dict[str, Any] = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (record["placed"], record["judged"], record["share"], record["real_share"]) == (5, 1, 1, None)
    assert record["flagged"] == [
        {"index": 4, "training_index": 1, "symmetry": "as it is", "score": pytest.approx(found.score[4])}
    ]
    nothing = find_defect_copies(textures_of(placed[:1]), textures_of(rare))
    assert (nothing.share, nothing.training_share) == (None, None)
    json.dumps(nothing.to_json(), allow_nan=False)


def test_textures_see_the_mask_alone() -> None:
    rng = np.random.default_rng(6)
    each = defect(rng, 0)
    other = paste(rounded(ground(rng, each.image.shape)), each.image, each.mask, 0, 0, False)
    np.testing.assert_array_equal(defect_texture(other, each.mask), each.texture)
    np.testing.assert_allclose(defect_texture(each.image + 30.0, each.mask), each.texture, atol=1e-9)
    np.testing.assert_allclose(defect_texture(each.image * 257.0, each.mask), 257 * each.texture)
    assert each.texture.shape == (2, SIDE, SIDE, 3)
    assert defect_texture(each.image[..., 0], each.mask).shape == (2, SIDE, SIDE, 1)


@pytest.mark.parametrize("symmetry", range(len(SYMMETRIES)))
def test_textures_of_turned_defects_are_turned(symmetry: int) -> None:
    each = defect(np.random.default_rng(7), 1)
    turned = defect_texture(apply_d4(each.image, symmetry), apply_d4(each.mask[..., None], symmetry)[..., 0])
    np.testing.assert_allclose(turned, apply_d4(each.texture, symmetry), atol=1e-9)


@pytest.mark.parametrize("factor", [2, 3])
def test_textures_are_averaged_by_area(factor: int) -> None:
    image = np.random.default_rng(8).integers(0, 256, (SIDE * factor, SIDE * factor, 1), dtype=np.uint8)
    texture = defect_texture(image, np.ones(image.shape[:2], bool))[0]
    blocks = image.reshape(SIDE, factor, SIDE, factor, 1).mean((1, 3))
    np.testing.assert_allclose(texture, blocks - image.mean(), atol=1e-9)
