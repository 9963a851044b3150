"""Sets of one distribution raise no warning; every planted shift raises its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from evaluations.errors import EvaluationError
from evaluations.metrics.drift import (
    BEYOND_CHANCE,
    Drift,
    Statistic,
    channel_moments,
    class_areas,
    compare_sets,
    spectra,
    warning,
)
from evaluations.sets import ImageSet
from guided_diffusion.data.lemons import CLASSES, write_demo_dataset

GANGRENE = CLASSES.index("gangrene")
COUNT = 48  # images of each of the two sets


@pytest.fixture(scope="module")
def lemons(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = tmp_path_factory.mktemp("drift") / "lemons"
    write_demo_dataset(folder, num_train=2 * COUNT, num_test=1, size=32)

    def read(part: str) -> np.ndarray:
        return np.stack([np.asarray(Image.open(path)) for path in sorted(Path(folder / "train" / part).iterdir())])

    return image_set(read("images"), read("masks"), len(CLASSES))


def image_set(images: np.ndarray, labels: np.ndarray | None = None, num_classes: int = 2) -> ImageSet:
    labels = np.zeros(images.shape[:3], np.uint8) if labels is None else labels
    return ImageSet(images, labels, tuple(str(number) for number in range(len(images))), num_classes)


def halves(images: ImageSet, seed: int) -> tuple[ImageSet, ImageSet]:
    order = np.random.default_rng(seed).permutation(len(images))
    return images.subset(order[: len(order) // 2]), images.subset(order[len(order) // 2 :])


def changed(images: ImageSet, change: Callable[[np.ndarray], np.ndarray]) -> ImageSet:
    pixels = np.clip(np.round(change(images.images.astype(float))), 0, 255).astype(np.uint8)
    return ImageSet(pixels, images.labels, images.names, images.num_classes)


def relabeled(images: ImageSet, old: int, new: int) -> ImageSet:
    labels = np.where(images.labels == old, new, images.labels)
    return ImageSet(images.images, labels, images.names, images.num_classes)


# ---------------------------------------------------------------------------------------------------- warnings


def told(drift: Drift, class_names: Sequence[str] = CLASSES) -> list[tuple[str, str, bool]]:
    """Return (kind, name, whether the samples have more) of each notable difference."""
    return [(kind, name, found.change > 0) for kind, name, found in drift.notable(class_names)]


@pytest.mark.slow
@pytest.mark.parametrize("count", [5, 2 * COUNT])
def test_random_halves_of_one_set_raise_no_warning(lemons: ImageSet, count: int) -> None:
    warned = [told(compare_sets(*halves(lemons.subset(range(count)), seed))) for seed in range(40)]
    assert sum(map(len, warned)) <= 1


def noise(images: np.ndarray) -> np.ndarray:
    return images + np.random.default_rng(0).normal(0, 12, images.shape[:3])[..., None]


def blur(images: np.ndarray) -> np.ndarray:
    return scipy.ndimage.gaussian_filter(images, (0, 0.6, 0.6, 0))


def checkerboard(images: np.ndarray) -> np.ndarray:
    row, column = np.indices(images.shape[1:3])
    return images + 8.0 * (-1) ** (row + column)[..., None]


def flat(images: np.ndarray) -> np.ndarray:
    return images * 0.7 + images.mean((0, 1, 2)) * 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda images: images + np.array([0, 10, 0]), [("mean", "green", True)]),
        (lambda images: images - np.array([0, 0, 10]), [("mean", "blue", False)]),
        (lambda images: images + 10, [("mean", channel, True) for channel in ("red", "green", "blue")]),
        (flat, [("std", channel, False) for channel in ("red", "green", "blue")]),
        (noise, [("power", "power", True)]),
        (checkerboard, [("power", "power", True)]),
    ],
    ids=["green", "blue", "brightness", "flat", "noise", "checkerboard"],
)
def test_a_planted_shift_of_the_images_is_told(
    lemons: ImageSet, change: Callable[[np.ndarray], np.ndarray], expected: list[tuple[str, str, bool]]
) -> None:
    real, other = halves(lemons, seed=0)
    assert told(compare_sets(real, other)) == []
    assert told(compare_sets(real, changed(other, change))) == expected


def test_blur_is_told(lemons: ImageSet) -> None:
    """It takes contrast from pictures of so few pixels as well."""
    real, other = halves(lemons, seed=0)
    assert told(compare_sets(real, changed(other, blur)))[-1] == ("power", "power", False)


def test_planted_changes_of_the_masks_are_told(lemons: ImageSet) -> None:
    real, other = halves(lemons, seed=0)
    background = CLASSES.index("background")
    drift = compare_sets(real, relabeled(other, GANGRENE, background))
    assert told(drift) == [("area", "gangrene", False)]
    assert drift.areas[GANGRENE].synthetic == 0
    drift = compare_sets(relabeled(real, GANGRENE, background), other)
    assert told(drift) == [("area", "gangrene", True)]
    assert drift.areas[GANGRENE].real == 0
    # Of the gangrene, three rows of four become lemon.
    labels = other.labels.copy()
    rows = labels[:, np.arange(32) % 4 > 0]
    labels[:, np.arange(32) % 4 > 0] = np.where(rows == GANGRENE, CLASSES.index("lemon"), rows)
    less = ImageSet(other.images, labels, other.names, other.num_classes)
    assert told(compare_sets(real, less)) == [("area", "gangrene", False)]


@pytest.mark.parametrize("kind", ["mean", "std", "area", "power"])
@pytest.mark.parametrize(("real", "synthetic"), [(0.1, 0.4), (0.4, 0.1), (0.0, 0.4), (0.4, 0.0)])
def test_a_warning_is_one_line_with_its_name(kind: str, real: float, synthetic: float) -> None:
    line = warning(kind, "green", Statistic(real, synthetic, 0.1, 9.0, 0.001, True))
    assert "\n" not in line
    assert "green" in line or kind == "power"


def test_a_class_that_is_rare_may_be_missing_by_chance() -> None:
    labels = np.zeros((20, 8, 8), np.uint8)
    labels[:2, :4] = 1
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    real, without = image_set(images, labels), image_set(images)
    assert compare_sets(real, without).areas[1].large
    assert told(compare_sets(real, without), ["a", "b"]) == []
    labels[:12, :4] = 1
    assert len(told(compare_sets(image_set(images, labels), without), ["a", "b"])) == 1


def test_a_difference_that_nobody_sees_is_not_told() -> None:
    images = np.full((30, 8, 8, 3), 100, np.uint8)
    drift = compare_sets(image_set(images), image_set(images + np.uint8(1)))
    assert drift.mean[0].change == 1
    assert drift.mean[0].p < BEYOND_CHANCE
    assert told(drift, ["a", "b"]) == []
    drift = compare_sets(image_set(images), image_set(images + np.uint8(3)))
    assert drift.channels == ("gray",)
    assert told(drift, ["a", "b"]) == [("mean", "gray", True)]
    assert (drift.mean[0].real, drift.mean[0].synthetic) == (100, 103)


# -------------------------------------------------------------------------------------------------- statistics


def test_moments_are_those_of_all_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 200, (7, 9, 12, 3), dtype=np.uint8)
    images[:3] //= 3
    means, stds = channel_moments(images)
    np.testing.assert_allclose(means, images.mean((1, 2)))
    np.testing.assert_allclose(stds.mean(0), images.std((0, 1, 2)))
    # An influence is what an image adds: to first order in its weight, by a numerical derivative.
    weights = np.full(7, 1 / 7)
    weights[2] += 1e-6
    weights /= weights.sum()
    mean = (weights[:, None] * images.mean((1, 2))).sum(0)
    std = np.sqrt((weights[:, None] * np.square(images - mean).mean((1, 2))).sum(0))
    np.testing.assert_allclose((std - images.std((0, 1, 2))) / 1e-6, stds[2] - stds.mean(0), rtol=1e-3)


def test_areas_by_hand() -> None:
    labels = np.array([[[0, 0], [1, 3]], [[3, 3], [3, 1]], [[0, 1], [1, 1]]])  # 3 stands for no class
    areas, shown = class_areas(labels, 3)
    np.testing.assert_allclose(areas.mean(0), [3 / 8, 5 / 8, 0], atol=1e-12)
    assert shown.tolist() == [[True, True, False], [False, True, False], [True, True, False]]
    # 2 of its 3 pixels, where 3 / 8 of them were expected, over 8 / 3 pixels an image.
    assert areas[0, 0] == pytest.approx(3 / 8 + (2 - 9 / 8) / (8 / 3))


@pytest.mark.parametrize("shape", [(32, 32), (24, 40)])
def test_white_noise_has_its_variance_at_all_frequencies(shape: tuple[int, int]) -> None:
    gray = np.random.default_rng(0).normal(128, 10, (300, *shape, 1))
    found = spectra(np.round(gray).astype(np.uint8).repeat(3, -1))
    power = 10 ** (found.radial / 10)
    np.testing.assert_allclose(power.mean(0)[1:], 100, rtol=0.1)
    assert np.mean(10 ** (found.high / 10)) == pytest.approx(100, rel=0.02)
    assert found.frequency[-1] == 0.5


def test_a_wave_is_at_its_frequency() -> None:
    wave = 128 + 50 * np.sin(2 * np.pi * 8 / 64 * np.arange(64))
    images = np.broadcast_to(np.round(wave)[None, None, :, None], (2, 64, 64, 3)).astype(np.uint8)
    found = spectra(images)
    assert found.frequency[found.radial[0].argmax()] == 8 / 64
    assert found.high[0] < found.radial[0].max() - 30


def test_nothing_in_a_flat_image_but_rounding() -> None:
    found = spectra(np.full((2, 16, 16, 3), 77, np.uint8))
    np.testing.assert_allclose(found.radial, 10 * np.log10(1 / 12))


# ------------------------------------------------------------------------------------------------------- result


def test_the_result_as_json(lemons: ImageSet) -> None:
    real, other = halves(lemons, seed=0)
    shifted = changed(other, lambda images: images + np.array([15, 0, 0]))
    record = json.loads(json.dumps(compare_sets(real, shifted).to_json(), allow_nan=False))
    assert record["num_real"] == COUNT
    assert record["mean"]["red"]["notable"]
    assert not record["mean"]["green"]["notable"]
    assert record["mean"]["red"]["synthetic"] == pytest.approx(shifted.images[..., 0].mean())
    assert record["std"]["blue"]["real"] == pytest.approx(real.images[..., 2].std())
    assert record["areas"][1]["real"] == pytest.approx((real.labels == 1).mean())
    assert len(record["frequency"]) == len(record["real_spectrum"]) == len(record["synthetic_spectrum"]) == 16


def test_what_never_varies_is_valid_json() -> None:
    same = image_set(np.full((4, 8, 8, 3), 9, np.uint8))
    assert json.loads(json.dumps(compare_sets(same, same).to_json(), allow_nan=False))["mean"]["gray"]["p"] == 1


@pytest.mark.parametrize("ignored", ["real", "synthetic"])
def test_masks_without_a_class(ignored: str) -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    sets = {"real": image_set(images), "synthetic": image_set(images)}
    sets[ignored] = image_set(images, np.full((3, 8, 8), 2))
    with pytest.raises(EvaluationError) as error:
        compare_sets(**sets)
    assert error.value.key == "drift"
    assert ignored in error.value.found


@pytest.mark.parametrize(
    "synthetic",
    [
        image_set(np.zeros((1, 8, 8, 3), np.uint8)),
        image_set(np.zeros((3, 8, 16, 3), np.uint8)),
        image_set(np.zeros((3, 8, 8, 3), np.uint8), num_classes=5),
    ],
    ids=["one image", "another size", "other classes"],
)
def test_sets_that_cannot_be_compared(synthetic: ImageSet) -> None:
    with pytest.raises(AssertionError):
        compare_sets(image_set(np.zeros((3, 8, 8, 3), np.uint8)), synthetic)
