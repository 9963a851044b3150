"""Copies of training images are found among samples, and nothing else is."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from evaluations.metrics.base import EvaluationSets, Skipped
from evaluations.metrics.near_duplicates import FACTOR, NearDuplicates, NearDuplicatesMetric, flag_near_duplicates
from evaluations.metrics.nearest import (
    BEST_BLOCKS,
    BLOCKS,
    FEATURES,
    MOST_SHIFT,
    TRIMMED,
    WHOLE,
    Nearest,
    nearest,
    nearest_features,
)
from evaluations.sets import ImageSet
from evaluations.symmetry import SYMMETRIES, apply_d4
from guided_diffusion.data.lemons import write_demo_dataset

Pixels = NDArray[np.uint8]
NUM_TRAINING, NUM_OTHERS = 64, 100


class Lemons(NamedTuple):
    """training, others: images of one distribution. defects: where the training images have defects, [T, H, W]."""

    training: Pixels
    defects: NDArray[np.bool_]
    others: Pixels


def read(folder: Path) -> Pixels:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])


@pytest.fixture(scope="module")
def lemons(tmp_path_factory: pytest.TempPathFactory) -> Lemons:
    folder = tmp_path_factory.mktemp("copies") / "lemons"
    write_demo_dataset(folder, num_train=NUM_TRAINING, num_test=NUM_OTHERS, size=48)
    masks = read(folder / "train" / "masks")
    return Lemons(read(folder / "train" / "images"), masks > 1, read(folder / "test" / "images"))


def noise_images(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def clipped(image: NDArray[np.floating]) -> Pixels:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def noisy(image: Pixels, sigma: float = 4) -> Pixels:
    return clipped(image + np.random.default_rng(5).normal(0, sigma, image.shape))


def through_jpeg(image: Pixels) -> Pixels:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=85)
    return np.asarray(Image.open(stream))


def with_defect(lemons: Lemons, index: int, source: int) -> Pixels:
    """Return training image `index` with the defects of `source`, mirrored, pasted in."""
    mask = lemons.defects[source][:, ::-1, None]
    assert 0.01 < mask.mean() < 0.25
    return np.where(mask, lemons.training[source][:, ::-1], lemons.training[index])


def near_duplicates(samples: Pixels, training: Pixels, held_out: Pixels | None = None) -> NearDuplicates:
    """Judge `samples` by both distances of pixels."""
    real = nearest(training if held_out is None else held_out, training)
    return flag_near_duplicates(nearest(samples, training), nearest(training, training, leave_one_out=True), real)


def planted(lemons: Lemons) -> tuple[list[int], Pixels]:
    """Return ten copies of training images, all altered in another way, and the numbers of the originals."""
    defective = [i for i in range(NUM_TRAINING) if 0.02 < lemons.defects[i].mean() < 0.2]
    changes: list[Callable[[Pixels], Pixels]] = [
        lambda image: image,
        noisy,
        lambda image: image[:, ::-1],
        lambda image: noisy(image[::-1], 2),
        lambda image: np.rot90(image),
        lambda image: clipped(image + 6.0),
        lambda image: clipped(image + np.array([-4.0, 2.0, 5.0])),
        through_jpeg,
    ]
    originals = list(range(3, 3 + 5 * len(changes), 5))
    copies = [change(lemons.training[i]) for change, i in zip(changes, originals, strict=True)]
    copies.append(with_defect(lemons, 50, defective[0]))
    copies.append(noisy(with_defect(lemons, 60, defective[1]), 3)[:, ::-1])
    return [*originals, 50, 60], np.stack(copies)


# ---------------------------------------------------------------------------------------------------- the rule


@pytest.mark.slow
@pytest.mark.parametrize("gray", [False, True])
def test_all_of_ten_planted_copies_and_none_of_a_hundred_others(lemons: Lemons, gray: bool) -> None:
    originals, copies = planted(lemons)
    training, others = lemons.training, lemons.others
    if gray:
        training, others, copies = (
            clipped(each.mean(-1, keepdims=True)).repeat(3, -1) for each in (training, others, copies)
        )
    order = np.random.default_rng(1).permutation(NUM_OTHERS + 10)
    found = near_duplicates(np.concatenate([copies, others])[order], training, others)
    assert set(order[found.flagged]) == set(range(10))
    assert found.share == pytest.approx(10 / 110)
    assert found.real_share == 0
    assert found.training_share == 0
    worst = found.closest(10)
    assert {originals[order[i]] for i in worst} == set(found.index[worst].tolist())
    for i in worst:  # laid over its original as it was matched, at most a defect is different
        difference = np.abs(apply_d4(training[found.index[i]], found.symmetry[i]) - copies[order[i]].astype(float))
        assert np.quantile(difference, 0.7) < 10


def test_a_small_thing_before_nothing_is_compared_as_a_whole() -> None:
    """The best 75 % of all these images are the same empty background."""
    images = np.full((60, 32, 32, 3), 200, np.uint8)
    images[:, 8:16, 8:16] = noise_images(60, 8, 8)
    samples = np.concatenate([images[50:], noisy(images[7:8], 2)])
    found = near_duplicates(samples, images[:50])
    assert found.flagged.tolist() == [False] * 10 + [True]
    assert found.measure[10] == WHOLE
    assert found.index[10] == 7


def test_near_duplicates_among_real_images_are_told() -> None:
    images = noise_images(40, 16, 16)
    training = np.concatenate([images[:30], noisy(images[:3])])
    found = near_duplicates(images[35:], training, held_out=np.concatenate([images[30:35], noisy(images[5:10])]))
    assert found.training_share == pytest.approx(6 / 33)
    assert found.real_share == 0.5
    assert found.share == 0


def test_the_rule_by_hand() -> None:
    def by(distances: list[float], usual: float) -> Nearest:
        count = len(distances)
        return Nearest(np.array(distances), np.arange(count), np.zeros(count, np.int64), np.full(count, usual))

    training = {"a": by([4, 5, 6], 10), "b": by([1, 8, 8], 10)}  # median ratios 0.5 and 0.8, without the repeat
    samples = {"a": by([1.9, 2.1, 4, 1.0], 10), "b": by([8, 3.3, 3.1, 3.1], 10)}
    held_out = {"a": by([9, 9, 1], 10), "b": by([9, 3, 9], 10)}
    found = flag_near_duplicates(samples, training, held_out)
    assert found.thresholds == pytest.approx({"a": FACTOR * 0.5, "b": FACTOR * 0.8})
    assert found.flagged.tolist() == [True, False, True, True]
    assert found.measure == ("a", "b", "b", "a")
    np.testing.assert_allclose(found.score, [0.19 / 0.2, 0.33 / 0.32, 0.31 / 0.32, 0.1 / 0.2])
    np.testing.assert_allclose(found.distance, [1.9, 3.3, 3.1, 1.0])
    np.testing.assert_allclose(found.ratio, [0.19, 0.33, 0.31, 0.1])
    assert found.real_share == pytest.approx(2 / 3)
    assert found.training_share == pytest.approx(1 / 3)
    assert found.closest(2).tolist() == [3, 0]
    assert found.closest(9).tolist() == [3, 0, 2, 1]
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert record["share"] == 0.75
    assert record["samples"][1] == {
        "measure": "b",
        "distance": pytest.approx(3.3),
        "training_index": 1,
        "symmetry": "as it is",
        "ratio": pytest.approx(0.33),
        "score": pytest.approx(0.33 / 0.32),
        "suspected": False,
    }


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.5, 0.6, 1.0])
def test_copies_are_found_where_training_images_have_a_second_exposure(lemons: Lemons, share: float) -> None:
    objects = lemons.training[:30]
    twins = noisy(objects[: round(share * len(objects))], 3)
    training = np.concatenate([objects, twins])
    copies = np.concatenate([objects[:5], noisy(objects[5:10])[:, ::-1]])
    found = near_duplicates(np.concatenate([copies, lemons.others[:20]]), training, lemons.others)
    assert found.flagged.tolist() == [True] * 10 + [False] * 20
    assert found.training_share == pytest.approx(2 * len(twins) / len(training))
    assert found.real_share == 0


@pytest.mark.slow
@pytest.mark.parametrize("times", [2, 3, 60])
def test_exact_copies_are_found_however_often_training_images_repeat(times: int) -> None:
    images = noise_images(8, 16, 16)
    found = near_duplicates(images, np.tile(images[:4], (times, 1, 1, 1)))
    assert found.flagged.tolist() == [True] * 4 + [False] * 4
    assert found.training_share == 1


@pytest.mark.slow
def test_repeats_do_not_move_the_threshold(lemons: Lemons) -> None:
    once = nearest(lemons.training, lemons.training, leave_one_out=True)
    alone, repeated = (
        near_duplicates(lemons.others[:4], np.concatenate([lemons.training, noisy(lemons.training[:count], 3)]))
        for count in (0, 40)
    )
    for name, neighbors in once.items():
        assert alone.thresholds[name] == pytest.approx(FACTOR * np.median(neighbors.ratio))
        assert repeated.thresholds[name] == pytest.approx(alone.thresholds[name], rel=0.2)


@pytest.mark.parametrize(("twins", "warned"), [(0, False), (10, False), (30, True)])
def test_a_warning_where_most_training_images_repeat(twins: int, warned: bool) -> None:
    images = noise_images(40, 16, 16)
    training = np.concatenate([images[:30], noisy(images[:twins])])

    def image_set(part: Pixels) -> ImageSet:
        return ImageSet(part, np.zeros(part.shape[:3], np.uint8), tuple(map(str, range(len(part)))), 2)

    none = np.full(5, -1)
    sets = EvaluationSets(
        *map(image_set, (training, images[30:35], images[35:])), ("a", "b"), 0, none, none, "", lambda: None
    )
    found = NearDuplicatesMetric(Skipped("without a network"), torch.device("cpu"), 2).measure(sets)
    assert (found.record["training_suspects"] > 0.5, bool(found.warnings)) == (warned, warned)
    assert found.record["share"] == 0


def test_equally_near_neighbors_prove_nothing() -> None:
    same = np.full((5, 16, 16, 3), 90, np.uint8)
    found = near_duplicates(same, same, same)
    assert not found.flagged.any()
    np.testing.assert_array_equal(found.ratio, 1)


# --------------------------------------------------------------------------------------------------- distances


def pair_distances(first: Pixels, second: Pixels) -> tuple[float, float]:
    """Return the distances of two images whose sides are multiples of 8 and at most 32, straight from the words."""
    height, width = first.shape[0] // BLOCKS, first.shape[1] // BLOCKS
    difference = first.astype(float) - second
    blocks = [
        difference[y : y + height, x : x + width].reshape(-1, 3)
        for y in range(0, first.shape[0], height)
        for x in range(0, first.shape[1], width)
    ]
    # Of an even number of values, either middle one is a median: the lower one.
    shift = np.clip(np.sort([block.mean(0) for block in blocks], axis=0)[31], -MOST_SHIFT, MOST_SHIFT)
    squares = sorted(np.mean((block - shift) ** 2) for block in blocks)
    return np.sqrt(np.mean(squares)), np.sqrt(np.mean(squares[:BEST_BLOCKS]))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(16, 24), pytest.param((16, 16), marks=pytest.mark.slow)])
def test_nearest_is_what_a_plain_search_finds(shape: tuple[int, int]) -> None:
    images = noise_images(12, *shape, seed=3)
    found, others = nearest(images[:4], images[4:]), nearest(images[4:], images[4:], leave_one_out=True)
    num_symmetries = 8 if shape[0] == shape[1] else 4
    for number, name in enumerate((WHOLE, TRIMMED)):
        table = np.array(
            [
                [[pair_distances(a, apply_d4(b, s))[number] for s in range(num_symmetries)] for b in images[4:]]
                for a in images
            ]
        )
        closest = table.min(2)
        np.testing.assert_allclose(found[name].distance, closest[:4].min(1), rtol=1e-5)
        np.testing.assert_array_equal(found[name].index, closest[:4].argmin(1))
        np.testing.assert_array_equal(found[name].symmetry, table[np.arange(4), closest[:4].argmin(1)].argmin(1))
        np.testing.assert_allclose(found[name].usual, np.median(np.sort(closest[:4])[:, :4], axis=1), rtol=1e-5)
        np.fill_diagonal(closest[4:], np.inf)
        np.testing.assert_allclose(others[name].distance, closest[4:].min(1), rtol=1e-5)
        np.testing.assert_array_equal(others[name].index, closest[4:].argmin(1))


@pytest.mark.parametrize("symmetry", range(len(SYMMETRIES)))
def test_every_flip_and_turn_is_found_and_can_be_shown(symmetry: int) -> None:
    training = noise_images(6, 40, 40)
    sample = apply_d4(training[4], symmetry)
    for found in nearest(sample[None], training).values():
        assert found.index[0] == 4
        assert found.distance[0] < 1e-3
        assert found.symmetry[0] == symmetry


@pytest.mark.parametrize(("shift", "left"), [(8, 0), (-8, 0), (25, 15), (-25, 15)])
def test_a_small_shift_of_a_color_does_not_count(shift: int, left: float) -> None:
    training = np.random.default_rng(0).integers(40, 200, (5, 32, 32, 3), dtype=np.uint8)
    sample = training[2:3].copy()
    sample[..., 1] = np.int64(sample[..., 1]) + shift
    for found in nearest(sample, training).values():
        assert found.distance[0] == pytest.approx(left / np.sqrt(3), abs=1e-2)


def test_large_images_are_averaged_first() -> None:
    """Noise of single pixels averages out; 64 / 32 = 2 of them a side make its deviation half."""
    training = np.full((4, 64, 64, 3), 100, np.uint8)
    sample = noisy(training[:1], 8)
    assert nearest(sample, training)[WHOLE].distance[0] == pytest.approx(4, rel=0.05)


@pytest.mark.slow
def test_an_image_is_not_its_own_neighbor_in_any_chunk() -> None:
    training = noise_images(190, 8, 16)  # 36,100 pairs, which are taken 32,768 at a time
    training[180] = training[11][:, ::-1]
    found = nearest(training, training, leave_one_out=True)[WHOLE]
    assert (found.index != np.arange(190)).all()
    assert found.index[[11, 180]].tolist() == [180, 11]
    assert found.distance[[11, 180]].max() < 1e-3
    assert np.delete(found.distance, [11, 180]).min() > 1


# ---------------------------------------------------------------------------------------------------- features


def test_features_by_hand() -> None:
    angles = np.radians([[0, 40, 100, 180], [10, 70, 120, 200]])  # [views, training images]
    training = np.stack([np.cos(angles), np.sin(angles)], -1) * np.array([1, 2, 3, 4])[None, :, None]
    sample = 7 * np.array([[np.cos(np.radians(65)), np.sin(np.radians(65))]])
    found = nearest_features(sample, training)[FEATURES]

    def chord(degrees: float) -> float:
        return 2 * np.sin(np.radians(degrees) / 2)

    assert (found.index[0], found.symmetry[0]) == (1, 1)
    assert found.distance[0] == pytest.approx(chord(5))
    assert found.usual[0] == pytest.approx((chord(5) + chord(35)) / 2)  # half of four
    others = nearest_features(training[0], training, leave_one_out=True)[FEATURES]
    assert others.index.tolist() == [1, 0, 1, 2]
    np.testing.assert_allclose(others.distance, [chord(40), chord(30), chord(30), chord(60)])


def test_features_join_pixels() -> None:
    images = noise_images(20, 16, 16)
    features = np.random.default_rng(0).normal(size=(1, 20, 8))
    stolen = features[:, 3] + 0.01
    found = flag_near_duplicates(
        {**nearest(images[15:16], images[:15]), **nearest_features(stolen, features[:, :15])},
        {
            **nearest(images[:15], images[:15], leave_one_out=True),
            **nearest_features(features[0, :15], features[:, :15], leave_one_out=True),
        },
        {**nearest(images[16:], images[:15]), **nearest_features(features[0, 16:], features[:, :15])},
    )
    assert found.flagged.tolist() == [True]
    assert found.measure == (FEATURES,)
    assert found.index.tolist() == [3]


# ------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("samples", "training"),
    [((4, 16, 16), (2, 16, 16)), ((4, 16, 24), (5, 32, 16))],
    ids=["two training images", "another size"],
)
def test_sets_that_cannot_be_compared(samples: tuple[int, ...], training: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError):
        nearest(noise_images(*samples), noise_images(*training))


def test_three_training_images_are_enough() -> None:
    training = noise_images(3, 16, 16)
    found = near_duplicates(np.concatenate([training[:1], noise_images(1, 16, 16, seed=9)]), training)
    assert found.flagged.tolist() == [True, False]
