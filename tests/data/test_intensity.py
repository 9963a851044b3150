"""What the model sees of the values in a file: all bits, every type, and the option image_range."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from odd_images import write_png, write_tiff
from PIL import Image, ImageOps

from guided_diffusion.data.arrays import load_arrays
from guided_diffusion.data.datasets import ExampleKey, SegmentationDataset, read_image
from guided_diffusion.data.files import open_image
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.runtime.errors import DataError

RNG = np.random.default_rng(0)


def deep(channels: int) -> np.ndarray:
    """Return random values, uint16 [5, 7, channels]."""
    return RNG.integers(0, 65536, (5, 7, channels), np.uint16)


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Return 0..65535 as the nearest of 0..255."""
    return np.floor(values / 257 + 0.5).astype(np.uint8)


def shown(path: Path, channels: int = 3, **options) -> np.ndarray:
    """Return what the model sees, [H, W, channels]."""
    return read_image(path, channels, **options).numpy().transpose(1, 2, 0)


@pytest.mark.parametrize("interlaced", [False, True])
def test_16_bit_colors_keep_their_low_byte(tmp_path, interlaced):
    values = deep(3)
    path = write_png(tmp_path / "a.png", values, interlaced=interlaced)
    assert np.array_equal(shown(path), to_bytes(values))
    # Values to 4095, of which PIL's high byte leaves 16.
    dark = write_png(tmp_path / "b.png", values >> 4, interlaced=interlaced)
    assert np.array_equal(shown(dark, image_range=(0, 4095)), np.floor((values >> 4) / 4095 * 255 + 0.5))
    assert len(np.unique(shown(dark, image_range=(0, 4095)))) > 60


def test_16_bit_gray_is_read_as_before(tmp_path):
    values = deep(1)
    path = write_png(tmp_path / "a.png", values)
    assert np.array_equal(shown(path, 1), to_bytes(values))
    assert np.array_equal(shown(path), np.repeat(to_bytes(values), 3, axis=2))


@pytest.mark.parametrize("channels", [2, 4])
def test_16_bit_alpha_is_composited_over_black(tmp_path, channels):
    values = deep(channels)
    values[0, 0, -1], values[0, 1, -1] = 0, 65535
    image = shown(write_png(tmp_path / "a.png", values)).astype(int)
    expected = values[..., :-1] / 257 * (values[..., -1:] / 65535)
    assert np.abs(image - expected).max() <= 1.5
    assert not image[0, 0].any()
    assert np.array_equal(image[0, 1], np.broadcast_to(to_bytes(values[0, 1, :-1]), 3))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_few_bright_pixels_of_a_dark_field_are_seen(tmp_path, dtype):
    values = np.zeros((100, 100), dtype)
    values[3, 5:9] = 50, 100, 150, 200
    image = shown(write_png(tmp_path / "a.png", values), 1, image_range="percentile")
    assert np.array_equal(image[3, 5:9, 0], np.floor(values[3, 5:9] / 200 * 255 + 0.5))
    assert not image[values == 0].any()
    native = NativeImage.read(tmp_path / "a.png", 1, "percentile")
    assert (native.low, native.high) == (0, 200)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_color_is_black(tmp_path, dtype, channels):
    values = np.full((4, 4, channels), 200, dtype) * (257 if dtype == np.uint16 else 1)
    values[1, 1], values[2, 2] = values[0, 0] // 2, values[0, 0] // 2 + 1
    path = write_png(tmp_path / "a.png", values.astype(dtype), key=tuple(values[1, 1].tolist()))
    image = shown(path, 1)[..., 0]
    assert image[0, 0] == 200
    assert image[1, 1] == 0
    assert image[2, 2] in (100, 101)  # a value beside the transparent one, at full precision


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_colors_are_turned_as_8_bit_ones(tmp_path, orientation):
    values = deep(3)
    path = write_png(tmp_path / "a.png", values, orientation=orientation)
    plain = write_png(tmp_path / "b.png", to_bytes(values), orientation=orientation)
    assert np.array_equal(shown(path), shown(plain))
    assert np.array_equal(shown(plain), ImageOps.exif_transpose(Image.open(plain)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_files_whose_zero_is_white_are_inverted(tmp_path, dtype, white_is_zero):
    values = deep(1)[..., 0].astype(dtype)
    path = write_tiff(tmp_path / "a.png", values, white_is_zero=white_is_zero)
    seen = to_bytes(values) if dtype == np.uint16 else values
    assert np.array_equal(shown(path, 1)[..., 0], 255 - seen if white_is_zero else seen)


def _tiff_of_16_bit_colors(path: Path) -> None:
    write_tiff(path, deep(3))


def _float_tiff(path: Path) -> None:
    Image.fromarray(deep(1)[..., 0].astype(np.float32)).save(path, "TIFF")


def _tiff_of_32_bits(path: Path) -> None:
    Image.fromarray(np.array([[70000, 1]], np.int32)).save(path, "TIFF")


@pytest.mark.parametrize("write", [_tiff_of_16_bit_colors, _float_tiff, _tiff_of_32_bits])
@pytest.mark.parametrize("image_range", ["auto", (0, 100), "percentile"])
def test_values_that_cannot_be_read_are_refused_by_name(tmp_path, write, image_range):
    write(tmp_path / "a.png")
    with pytest.raises(DataError) as error:
        read_image(tmp_path / "a.png", 3, image_range=image_range)
    assert error.value.path == str(tmp_path / "a.png")


RANGES = {
    (0, 255): [0, 51, 102, 200, 255],
    (0, 102): [0, 128, 255, 255, 255],
    (51, 200): [0, 0, 87, 255, 255],
}


@pytest.mark.parametrize(("image_range", "expected"), RANGES.items())
def test_a_range_of_8_bit_values(tmp_path, image_range, expected):
    values = np.array([[0, 51, 102, 200, 255]], np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert shown(tmp_path / "a.png", 1, image_range=image_range)[0, :, 0].tolist() == expected
    Image.fromarray(np.stack([values, values[:, ::-1], values], axis=-1)).save(tmp_path / "b.png")
    image = shown(tmp_path / "b.png", image_range=image_range)[0]
    assert image.T.tolist() == [expected, shown_of(values[0, ::-1], image_range), expected]
    Image.fromarray(values).convert("P").save(tmp_path / "c.png")
    assert shown(tmp_path / "c.png", 1, image_range=image_range)[0, :, 0].tolist() == expected


def shown_of(values: np.ndarray, image_range: tuple[int, int]) -> list[int]:
    low, high = image_range
    return np.floor((values.clip(low, high) - float(low)) / (high - low) * 255 + 0.5).astype(int).tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_percentiles_are_those_of_the_image_without_its_hot_pixels(tmp_path, dtype):
    values = np.tile(np.arange(100, 140, dtype=dtype), (50, 1))  # 50 of each of 100..139
    values[0, 0] = np.iinfo(dtype).max  # one of two thousand pixels
    path = write_png(tmp_path / "a.png", values)
    expected = shown_of(np.arange(100, 140), (100, 139))
    image = shown(path, 1, image_range="percentile")[..., 0]
    assert image[1].tolist() == expected
    assert image[0, 0] == 255
    alpha = np.full_like(values, np.iinfo(dtype).max)
    values[0, 0], values[10:40], alpha[10:40] = 100, 3, 0  # invisible pixels do not count
    path = write_png(tmp_path / "b.png", np.stack([values, alpha], axis=-1))
    image = shown(path, 1, image_range="percentile")[..., 0]
    assert image[1].tolist() == expected
    assert not image[10:40].any()


@pytest.mark.parametrize("value", [0, 7, 255])
def test_percentiles_of_a_blank_image_are_black(tmp_path, value):
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / "a.png")
    assert not shown(tmp_path / "a.png", image_range="percentile").any()


def test_full_is_auto(tmp_path):
    path = write_png(tmp_path / "a.png", deep(3))
    assert np.array_equal(shown(path, image_range="full"), shown(path))


def test_everything_that_reads_pairs_applies_the_range(tmp_path):
    image = write_png(tmp_path / "a.png", np.full((8, 8), 2048, np.uint16))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "m.png")
    pairs = [Pair("a", str(image), str(tmp_path / "m.png"))]
    transform, encoding = JointTransform((8, 8), train=False), LabelEncoding.identity(2)
    dataset = SegmentationDataset(pairs, encoding, transform, image_range=(0, 4095))
    assert dataset[ExampleKey(0, 0, 0, 1.0)]["image"].unique().tolist() == pytest.approx([128 / 127.5 - 1], abs=1e-6)
    images, _ = load_arrays(pairs, encoding, transform, 3, image_range=(0, 4095))
    assert np.unique(images).tolist() == [128]
    assert np.unique(load_arrays(pairs, encoding, transform, 3)[0]).tolist() == [8]


def test_a_mask_of_16_bit_colors_is_still_opened_as_an_image(tmp_path):
    assert open_image(write_png(tmp_path / "a.png", deep(3))).size == (7, 5)
