"""Images that are not what the model sees: black, blank, transparent, or on another scale."""

from __future__ import annotations

import json

import numpy as np
import pytest
from odd_images import write_png
from PIL import Image
from pydantic import TypeAdapter

from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.options import ImageRangeOption
from guided_diffusion.data.scan.histogram import save_histogram
from guided_diffusion.data.scan.problems import UNSEEN, ProblemKind
from guided_diffusion.data.scan.scan import scan_dataset

DEPTH, BLANK, SCALES, ALPHA = (
    ProblemKind.IMAGE_DEPTH,
    ProblemKind.BLANK_IMAGES,
    ProblemKind.MIXED_SCALES,
    ProblemKind.TRANSPARENCY,
)
SIZE = 48


def photo(index: int, channels: int = 3) -> np.ndarray:
    """Return a picture of values about 40 to 190, uint8."""
    rng = np.random.default_rng(index)
    gray = 110 + 40 * np.sin(np.arange(SIZE) / 7)[:, None] + rng.normal(0, 8, (SIZE, SIZE))
    pixels = gray.clip(0, 255).astype(np.uint8)
    return pixels if channels == 1 else np.stack([pixels] * channels, axis=-1)


def deep(index: int, channels: int = 1, bits: int = 16) -> np.ndarray:
    """Return the picture with values up to about 3/4 of 2^bits, uint16."""
    return photo(index, channels).astype(np.uint16) << (bits - 8)


def scan(tmp_path, images: list, image_range="auto", channels=3):
    """Return the scan of images: arrays, written as PNG, or PIL pictures."""
    for index, image in enumerate(images):
        path = tmp_path / f"data/train/images/p{index}.png"
        if isinstance(image, Image.Image):
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        else:
            write_png(path, image)
        write_png(tmp_path / f"data/train/masks/p{index}.png", np.eye(SIZE, dtype=np.uint8))
    return scan_dataset(
        tmp_path / "data",
        get_mode("binary"),
        "train",
        image_range=image_range,
        image_channels=channels,
        progress=False,
    )


def warned(report) -> dict[ProblemKind, str]:
    """Return what the warnings found, by their kinds."""
    report.raise_if_fatal()
    return {problem.kind: problem.found for problem in report.warnings if problem.kind in UNSEEN}


def named(found: str) -> list[str]:
    """Return the numbers of the images that a finding names."""
    return [name for name in map(str, range(12)) if f"p{name}.png" in found]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("make", [photo, deep])
@pytest.mark.parametrize("image_range", ["auto", "full", "percentile"])
def test_sound_images(tmp_path, make, channels, image_range):
    assert warned(scan(tmp_path, [make(index, channels) for index in range(6)], image_range)) == {}


def _line_drawing(index: int) -> np.ndarray:
    image = np.zeros((SIZE, SIZE), np.uint8)
    image[index + 3, 5:40] = 255
    return image


def _cells(index: int) -> np.ndarray:
    """Return dark-field microscopy: a few soft bright spots over a dark noisy ground, 16 bits."""
    rng = np.random.default_rng(index)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    spots = sum(np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 8) for y, x in rng.integers(8, 40, (4, 2)))
    return (rng.normal(900, 100, (SIZE, SIZE)) + 60000 * spots).clip(0, 65535).astype(np.uint16)


@pytest.mark.parametrize("make", [_line_drawing, _cells])
def test_dark_pictures_with_bright_objects_are_sound(tmp_path, make):
    assert warned(scan(tmp_path, [make(index) for index in range(6)])) == {}


def _with_hot_pixel(image: np.ndarray) -> np.ndarray:
    image[0, 0] = 65535
    return image


def _with_hot_row(image: np.ndarray) -> np.ndarray:
    image[7] = 65535
    return image


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spoil", [_with_hot_pixel, _with_hot_row])
@pytest.mark.parametrize("spoilt", [0, 1, 6])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_few_bits_in_sixteen(tmp_path, channels, spoil, spoilt, bits):
    images = [deep(index, channels, bits) for index in range(6)]
    images[:spoilt] = [spoil(image) for image in images[:spoilt]]
    report = scan(tmp_path, images)
    assert set(warned(report)) == {DEPTH}
    (problem,) = (problem for problem in report.warnings if problem.kind is DEPTH)
    assert "16-bit" in problem.found
    assert f"[0, {2**bits - 1}]" in problem.remedy
    assert warned(scan(tmp_path, images, "full")) == {}
    assert warned(scan(tmp_path, images, "percentile")) == {}
    repaired = scan(tmp_path, images, (0, 2**bits - 1))
    assert warned(repaired) == {}
    middle = scan(tmp_path, [photo(5)]).brightness[0].seen[1]
    assert repaired.brightness[5].seen[1] == pytest.approx(middle, abs=2)


@pytest.mark.parametrize("largest", [1, 3, 15])
def test_few_bits_in_eight(tmp_path, largest):
    images = [(photo(index) / 190 * largest).round().clip(0, largest).astype(np.uint8) for index in range(6)]
    report = scan(tmp_path, images)
    assert set(warned(report)) == {DEPTH}
    (problem,) = (problem for problem in report.warnings if problem.kind is DEPTH)
    assert f"[0, {largest}]" in problem.remedy
    assert warned(scan(tmp_path, images, (0, largest))) == {}


def test_an_offset_leaves_little_contrast(tmp_path):
    images = [(32768 + deep(index, bits=11)).astype(np.uint16) for index in range(6)]
    report = scan(tmp_path, images)
    assert set(warned(report)) == {DEPTH}
    low, high = min(b.low for b in report.brightness), max(b.high for b in report.brightness)
    assert warned(scan(tmp_path, images, (low, high))) == {}


@pytest.mark.parametrize("image_range", [(0, 65535), (40000, 65535), (0, 100)])
def test_a_range_that_does_not_fit_is_named(tmp_path, image_range):
    report = scan(tmp_path, [deep(index, bits=12) for index in range(6)], image_range)
    assert set(warned(report)) == {DEPTH}
    assert {problem.path for problem in report.warnings if problem.kind is DEPTH} == {"image_range"}


def test_the_range_advised_is_one_that_the_option_takes(tmp_path):
    """Medians of an even number of images may lie between two values."""
    flat = [np.full((SIZE, SIZE), value, np.uint8) for value in (20, 21)]
    for image, brightest in zip(flat, (100, 101), strict=True):
        image[:, ::2] = brightest
    (problem,) = [p for p in scan(tmp_path, flat, (5000, 6000)).warnings if p.kind is DEPTH]
    limits = TypeAdapter(ImageRangeOption).validate_python(json.loads(problem.remedy[problem.remedy.index("[") :][:9]))
    assert limits[0] in (20, 21)
    assert limits[1] in (100, 101)


@pytest.mark.parametrize("dark", [1, 3])
def test_dark_images_among_others(tmp_path, dark):
    images = [photo(index) // 16 if index < dark else photo(index) for index in range(6)]
    found = warned(scan(tmp_path, images))
    assert set(found) == {SCALES}
    assert named(found[SCALES]) == [str(index) for index in range(dark)]
    assert warned(scan(tmp_path, images, "percentile")) == {}


def test_a_bright_image_among_dark_ones(tmp_path):
    images = [deep(0), *(deep(index, bits=12) for index in range(1, 6))]
    found = warned(scan(tmp_path, images))
    assert set(found) == {SCALES, DEPTH}
    assert named(found[SCALES]) == ["0"]


@pytest.mark.parametrize("bits", [8, 12])
def test_16_bit_images_of_another_scale_among_8_bit_ones(tmp_path, bits):
    report = scan(tmp_path, [deep(index, 3, bits) if index < 2 else photo(index) for index in range(6)])
    found = warned(report)
    assert set(found) == {SCALES, DEPTH}
    assert named(found[SCALES]) == ["0", "1"]
    assert all("[0, " not in problem.remedy for problem in report.warnings)  # it would spoil the others
    assert warned(scan(tmp_path, [deep(0, 3), *map(photo, range(1, 6))])) == {}
    assert set(warned(scan(tmp_path, [deep(0, 3), *map(photo, range(1, 6))], (0, 255)))) >= {DEPTH}


@pytest.mark.parametrize("value", [0, 90, 255])
def test_blank_images_are_named(tmp_path, value):
    images = [np.full((SIZE, SIZE, 3), value, np.uint8) if index in (1, 4) else photo(index) for index in range(6)]
    images[1][...] = (value, 3, 4)
    found = warned(scan(tmp_path, images))
    assert set(found) == {BLANK}
    assert named(found[BLANK]) == ["1", "4"]
    almost = np.full((SIZE, SIZE, 3), value, np.uint8)
    almost[40, 40] ^= 1
    assert BLANK not in warned(scan(tmp_path, [almost, *(photo(index) for index in range(1, 6))]))


def _rgba(index: int, alpha: int) -> np.ndarray:
    return np.dstack([photo(index), np.full((SIZE, SIZE), alpha, np.uint8)])


def _gray_alpha(index: int, alpha: int) -> np.ndarray:
    return np.dstack([photo(index, 1), np.full((SIZE, SIZE), alpha, np.uint8)])


def _deep_rgba(index: int, alpha: int) -> np.ndarray:
    return np.dstack([deep(index, 3), np.full((SIZE, SIZE), alpha * 257, np.uint16)])


def _deep_gray_alpha(index: int, alpha: int) -> np.ndarray:
    return np.dstack([deep(index), np.full((SIZE, SIZE), alpha * 257, np.uint16)])


def _palette(index: int, alpha: int) -> Image.Image:
    image = Image.fromarray(photo(index)).quantize(16)
    image.info["transparency"] = bytes([alpha] * 16)
    return image


@pytest.mark.parametrize("make", [_rgba, _gray_alpha, _deep_rgba, _deep_gray_alpha, _palette])
@pytest.mark.parametrize("alpha", [0, 1, 255])
@pytest.mark.parametrize("count", [1, 6])
def test_transparent_images(tmp_path, make, alpha, count):
    report = scan(tmp_path, [make(index, alpha) if index < count else photo(index) for index in range(6)])
    found = warned(report)
    assert set(found) == ({ALPHA} if alpha < 255 else set())
    assert (report.brightness[0].seen[2] > 100) == (alpha == 255)
    if alpha < 255:
        assert named(found[ALPHA]) == [str(index) for index in range(count)]


def test_pictures_cut_out_of_their_ground_are_sound(tmp_path):
    images = [_rgba(index, 255) for index in range(6)]
    for image in images:
        image[:20, :, 3] = 0
    assert warned(scan(tmp_path, images)) == {}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_color_hides_what_has_it(tmp_path, dtype, channels):
    bright = 255 if dtype == np.uint8 else 65535
    images = [photo(index, channels) if dtype == np.uint8 else deep(index, channels) for index in range(6)]
    for image in images:
        image[10:20] = bright
    report = scan(tmp_path, images)
    assert warned(report) == {}
    for index in (2, 3):
        write_png(tmp_path / f"data/train/images/p{index}.png", images[index], key=(bright,) * channels)
    report = scan_dataset(tmp_path / "data", get_mode("binary"), "train", progress=False)
    found = warned(report)
    assert set(found) == {ALPHA}
    assert named(found[ALPHA]) == ["2", "3"]
    assert report.brightness[2].hidden == pytest.approx(10 / SIZE)
    # Black is black anyway.
    images[2][10:20] = 0
    write_png(tmp_path / "data/train/images/p2.png", images[2], key=(0,) * channels)
    report = scan_dataset(tmp_path / "data", get_mode("binary"), "train", progress=False)
    assert named(warned(report)[ALPHA]) == ["3"]


def test_a_large_image_is_judged_by_some_of_its_pixels(tmp_path):
    image = np.tile(deep(0, bits=12), (30, 30))
    image[700:705] = 65535
    write_png(tmp_path / "data/train/images/p0.png", image)
    write_png(tmp_path / "data/train/masks/p0.png", np.eye(30 * SIZE, dtype=np.uint8))
    report = scan_dataset(tmp_path / "data", get_mode("binary"), "train", progress=False)
    assert set(warned(report)) == {DEPTH}
    again = scan_dataset(tmp_path / "data", get_mode("binary"), "train", progress=False)
    assert report.brightness[0].seen == again.brightness[0].seen


def test_formats_are_told_as_they_are_stored(tmp_path):
    report = scan(tmp_path, [deep(0, 3), _deep_gray_alpha(1, 255), photo(2), deep(3)])
    assert report.image_modes == ("RGB;16", "LA;16", "RGB", "I;16")
    assert all(b.histogram.sum() == pytest.approx(1) for b in report.brightness)


@pytest.mark.slow
def test_the_histogram_is_a_picture(tmp_path):
    report = scan(tmp_path, [photo(0), photo(1) // 2, np.zeros((SIZE, SIZE), np.uint8)])
    save_histogram(report.brightness, tmp_path / "h.png", title="train")
    save_histogram(report.brightness[:1], tmp_path / "one.png")
    assert Image.open(tmp_path / "h.png").size == Image.open(tmp_path / "one.png").size == (960, 720)
