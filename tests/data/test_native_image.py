"""Good images at their own depth: every sample is kept, regions are what training sees, only the hole is painted."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_images import write_png, write_tiff
from PIL import Image, ImageOps

from guided_diffusion.data.components import Box
from guided_diffusion.data.datasets import read_image
from guided_diffusion.data.deep_color import deep_samples, stored_mode, write_deep_png
from guided_diffusion.data.files import open_image
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.runtime.errors import DataError

RNG = np.random.default_rng(0)
SIZE = (5, 7)
WHOLE = Box(0, 0, *SIZE)


def noise(channels: int, dtype: type = np.uint8) -> np.ndarray:
    """Return random values [5, 7, channels]."""
    return RNG.integers(0, np.iinfo(dtype).max, (*SIZE, channels), dtype, endpoint=True)


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def gray_as_rgb(path: Path) -> Path:
    return write_png(path, np.repeat(noise(1), 3, axis=2))


def turned_jpeg(path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.fromarray(noise(3)), path, format="JPEG", exif=exif)


def one_bit(path: Path) -> Path:
    return saved(Image.fromarray(noise(1)[..., 0] > 99), path)


def with_palette(path: Path, **options) -> Path:
    return saved(Image.fromarray(noise(3)).quantize(8), path, **options)


FILES = {
    # name: (channels, depth, mode of the saved file, how the file is made)
    "1": (1, 8, "L", one_bit),
    "L": (1, 8, "L", lambda path: write_png(path, noise(1))),
    "P": (3, 8, "RGB", with_palette),
    "P with a transparent index": (3, 8, "RGBA", lambda path: with_palette(path, transparency=1)),
    "RGB": (3, 8, "RGB", lambda path: write_png(path, noise(3))),
    "RGBA": (3, 8, "RGBA", lambda path: write_png(path, noise(4))),
    "LA": (1, 8, "LA", lambda path: write_png(path, noise(2))),
    "L with a transparent value": (1, 8, "LA", lambda path: write_png(path, noise(1) // 64, key=(2,))),
    "I;16": (1, 16, "I;16", lambda path: write_png(path, noise(1, np.uint16))),
    "LA of 16 bits": (1, 16, "LA;16", lambda path: write_png(path, noise(2, np.uint16))),
    "RGB of 16 bits": (3, 16, "RGB;16", lambda path: write_png(path, noise(3, np.uint16))),
    "RGBA of 16 bits": (3, 16, "RGBA;16", lambda path: write_png(path, noise(4, np.uint16))),
    "16 bits with a transparent value": (
        1,
        16,
        "LA;16",
        lambda path: write_png(path, noise(1, np.uint16) % 4, key=(2,)),
    ),
    "gray JPEG": (1, 8, "L", lambda path: saved(Image.fromarray(noise(1)[..., 0]), path, format="JPEG")),
    "JPEG": (3, 8, "RGB", lambda path: saved(Image.fromarray(noise(3)), path, format="JPEG")),
    "CMYK": (3, 8, "RGB", lambda path: saved(Image.fromarray(noise(4), "CMYK"), path, format="JPEG")),
    "TIFF of 16 bits": (1, 16, "I;16", lambda path: write_tiff(path, noise(1, np.uint16)[..., 0])),
    "TIFF whose zero is white": (
        1,
        16,
        "I;16",
        lambda path: write_tiff(path, noise(1, np.uint16)[..., 0], white_is_zero=True),
    ),
    "gray stored as RGB": (1, 8, "L", gray_as_rgb),
    "turned": (3, 8, "RGB", turned_jpeg),
    "turned, of 16 bits": (3, 16, "RGB;16", lambda path: write_png(path, noise(3, np.uint16), orientation=6)),
}
RANGES = ["auto", "full", "percentile", (40, 170)]


@pytest.mark.parametrize("name", FILES)
def test_an_image_that_was_only_saved_has_equal_samples(tmp_path, name):
    channels, depth, mode, make = FILES[name]
    path = make(tmp_path / "a.png")
    image = NativeImage.read(path, channels)
    image.save(tmp_path / "b.tmp")
    again = NativeImage.read(tmp_path / "b.tmp", channels)
    assert image.pixels.dtype == again.pixels.dtype == {8: np.uint8, 16: np.uint16}[depth]
    assert np.array_equal(image.pixels, again.pixels)
    assert np.array_equal(image.alpha, again.alpha)
    assert image.size == (SIZE[::-1] if name.startswith("turned") else SIZE)
    file = open_image(tmp_path / "b.tmp")
    deep_samples(file, "")
    assert (file.format, stored_mode(file)) == ("PNG", mode)
    for image_range in RANGES:
        before, after = (read_image(each, channels, image_range=image_range) for each in (path, tmp_path / "b.tmp"))
        assert torch.equal(before, after)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_samples_are_those_of_the_file(tmp_path, dtype, channels):
    values = noise(channels, dtype)
    image = NativeImage.read(write_png(tmp_path / "a.png", values), 1 if channels < 3 else 3)
    alpha = [] if image.alpha is None else [image.alpha]
    assert np.array_equal(np.dstack([image.pixels, *alpha]), values)


def test_a_turned_image_is_upright_or_as_stored(tmp_path):
    path = turned_jpeg(tmp_path / "a.jpg")
    with Image.open(path) as file:
        assert np.array_equal(NativeImage.read(path, 3, upright=False).pixels, np.asarray(file))
        assert np.array_equal(NativeImage.read(path, 3).pixels, np.asarray(ImageOps.exif_transpose(file)))


@pytest.mark.parametrize("height", [1, 63, 64, 65, 130])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_of_16_bits_is_read_as_it_was_written(tmp_path, height, channels):
    values = RNG.integers(0, 65536, (height, 3, channels), np.uint16)
    write_deep_png(tmp_path / "a.png", values)
    assert np.array_equal(deep_samples(open_image(tmp_path / "a.png"), ""), values)
    with Image.open(tmp_path / "a.png") as file:
        file.verify()


@pytest.mark.parametrize("image_range", RANGES)
@pytest.mark.parametrize("name", FILES)
def test_regions_are_what_training_sees_and_finer(tmp_path, name, image_range):
    channels, _, _, make = FILES[name]
    path = make(tmp_path / "a.png")
    image = NativeImage.read(path, channels, image_range)
    seen = read_image(path, channels, image_range=image_range).float()
    box = Box(1, 2, 4, 5)
    region = image.region(box)
    assert region.dtype == torch.float32
    assert region.is_contiguous()
    wanted = seen[(slice(None), *box.slices)]
    difference = ((region + 1) * 127.5 - wanted).abs().max()
    # Training rounds the values, then those that alpha composites.
    assert difference <= (0.5 if image.alpha is None else 1.0) + 1e-3
    if image.pixels.dtype == np.uint8 and image.alpha is None and image_range in ("auto", "full"):
        assert torch.equal(region, wanted / 127.5 - 1)


def test_16_bits_are_not_rounded(tmp_path):
    values = np.arange(35, dtype=np.uint16).reshape(*SIZE, 1) + 30_000
    region = NativeImage.read(write_png(tmp_path / "a.png", values), 1).region(WHOLE)
    assert len(region.unique()) == 35
    assert np.allclose(region[0].double().numpy(), values[..., 0] / 32767.5 - 1, atol=1e-7)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    channels=st.sampled_from([1, 3]),
    limits=st.tuples(st.integers(0, 254), st.integers(1, 65535)).map(lambda pair: (pair[0], sum(pair))),
    alpha=st.booleans(),
)
def test_only_the_hole_is_painted_and_by_the_inverse(seed, dtype, channels, limits, alpha):
    rng = np.random.default_rng(seed)
    most = np.iinfo(dtype).max
    low, high = (min(limit, most) for limit in limits)
    pixels = rng.integers(0, most, (*SIZE, channels), dtype, endpoint=True)
    opacity = rng.integers(0, most, SIZE, dtype, endpoint=True) if alpha else None
    image = NativeImage(pixels.copy(), None if opacity is None else opacity.copy(), low, high)
    box = Box(1, 0, 4, 6)
    hole = rng.random(box.size) < 0.5
    region = image.region(box)
    image.put(box, region, hole)
    assert np.array_equal(image.pixels, pixels)  # also what lies outside of the range
    painted = torch.from_numpy(rng.uniform(-1.5, 1.5, region.shape))
    image.put(box, painted, torch.from_numpy(hole))
    changed = np.zeros(SIZE, bool)
    changed[box.slices] = hole
    assert np.array_equal(image.pixels[~changed], pixels[~changed])
    if alpha:
        assert np.array_equal(image.alpha, opacity)
        return
    inside = torch.from_numpy(((low <= pixels) & (pixels <= high))[box.slices].transpose(2, 0, 1))
    step = 2 / (high - low)
    error = (image.region(box) - painted.clamp(-1, 1)).abs()[torch.from_numpy(hole) & inside]
    assert error.numel() == 0 or error.max() <= step / 2 + 1e-6


def test_overexposed_pixels_are_not_flattened_where_little_is_painted():
    stored = np.full((*SIZE, 1), 3500, np.uint16)
    stored[:, 3] = 1500
    image = NativeImage(stored.copy(), None, 0, 3000)
    values = image.region(WHOLE) - 0.02  # 30 of 3000
    image.put(WHOLE, values, np.ones(SIZE, bool))
    assert np.array_equal(image.pixels, stored - np.uint16(30))


def test_painted_pixels_show_through_their_alpha():
    pixels, alpha = np.full((*SIZE, 3), 10, np.uint8), np.full(SIZE, 255, np.uint8)
    alpha[0], alpha[1] = 0, 128
    image = NativeImage(pixels.copy(), alpha, 0, 255)
    painted = torch.full((3, *SIZE), -0.5)
    image.put(WHOLE, painted, np.ones(SIZE, bool))
    assert (image.pixels[0] == 10).all()  # nothing to be seen there
    assert torch.allclose(image.region(WHOLE)[:, 1:], painted[:, 1:], atol=0.005)
    image.put(WHOLE, torch.ones(3, *SIZE), np.ones(SIZE, bool))
    assert (image.pixels[1:] == 255).all()  # half transparent white is as bright as it gets


@pytest.mark.parametrize("image_range", ["percentile", (3, 3 + 1)])
def test_a_blank_image_has_a_range(tmp_path, image_range):
    path = write_png(tmp_path / "a.png", np.full((*SIZE, 1), 3, np.uint8))
    image = NativeImage.read(path, 1, image_range)
    assert (image.region(WHOLE) == -1).all()
    image.put(WHOLE, image.region(WHOLE), np.ones(SIZE, bool))
    assert (image.pixels == 3).all()


def _truncated(path: Path) -> None:
    write_png(path, noise(3))
    path.write_bytes(path.read_bytes()[:60])


REFUSED = {
    "colors for a gray model": (1, lambda path: write_png(path, noise(3))),
    "colors of 16 bits for a gray model": (1, lambda path: write_png(path, noise(4, np.uint16))),
    "gray for a model of colors": (3, lambda path: write_png(path, noise(1))),
    "gray with alpha for a model of colors": (3, lambda path: write_png(path, noise(2))),
    "gray with a transparent value": (3, lambda path: write_png(path, noise(1), key=(2,))),
    "gray of 16 bits for a model of colors": (3, lambda path: write_png(path, noise(1, np.uint16))),
    "one bit for a model of colors": (3, one_bit),
    "floating point": (
        1,
        lambda path: saved(Image.fromarray(noise(1)[..., 0].astype(np.float32)), path, format="TIFF"),
    ),
    "32 bits": (1, lambda path: saved(Image.fromarray(np.array([[70000, 1]], np.int32)), path, format="TIFF")),
    "TIFF of 16-bit colors": (3, lambda path: write_tiff(path, noise(3, np.uint16))),
    "truncated": (3, _truncated),
    "missing": (3, lambda path: None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_painted_is_refused_in_one_line(tmp_path, name):
    channels, make = REFUSED[name]
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(DataError) as error:
        NativeImage.read(path, channels, "percentile")
    assert error.value.path == str(path)
    assert error.value.remedy
    assert len(error.value.messages) == 1


def test_a_file_of_8_bits_is_none_of_a_training_in_12(tmp_path):
    write_png(tmp_path / "a.png", noise(1))
    with pytest.raises(DataError) as error:
        NativeImage.read(tmp_path / "a.png", 1, (0, 4095))
    assert "[0, 4095]" in error.value.found
    write_png(tmp_path / "b.png", noise(1, np.uint16))
    assert NativeImage.read(tmp_path / "b.png", 1, (0, 4095)).high == 4095


def test_a_region_of_a_large_image_touches_no_more_than_itself():
    image = NativeImage(np.zeros((3000, 4000, 3), np.uint16), np.zeros((3000, 4000), np.uint16), 0, 65535)
    box = Box(1000, 2000, 1128, 2128)
    tracemalloc.start()
    image.put(box, image.region(box), np.ones(box.size, bool))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * 3 * 128 * 128
