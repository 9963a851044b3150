"""Images of exports: what is decoded keeps its 16 bits."""

from __future__ import annotations

import numpy as np
import pytest
from odd_images import write_png

from guided_diffusion.data.deep_color import deep_samples
from guided_diffusion.data.files import open_image, orientation
from guided_diffusion.data.formats.exported import ExportedImage
from guided_diffusion.runtime.errors import DataError

NOISE = np.random.default_rng(0).integers(0, 65536, (5, 7, 4), np.uint16)


def samples_of(path):
    image = open_image(path)
    assert orientation(image) == 1
    return deep_samples(image, str(path))


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_turned_images_keep_16_bits(tmp_path, channels, upright):
    pixels = NOISE[..., :channels]
    write_png(tmp_path / "a.png", pixels, orientation=6)
    ExportedImage(str(tmp_path / "a.png"), upright).put(tmp_path / "copy.png")
    expected = np.rot90(pixels, -1) if upright else pixels
    assert np.array_equal(samples_of(tmp_path / "copy.png"), expected)


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_of_16_bits_becomes_black(tmp_path, channels):
    pixels = NOISE[..., :channels].copy()
    pixels[0, :, -1], pixels[1, :, -1] = 0, 65535
    write_png(tmp_path / "a.png", pixels)
    ExportedImage(str(tmp_path / "a.png"), upright=True).put_png(tmp_path / "flat.png", channels=channels - 1)
    found, color = samples_of(tmp_path / "flat.png"), pixels[..., :-1].astype(float)
    assert np.abs(found - color * pixels[..., -1:] / 65535).max() <= 0.5
    with pytest.raises(DataError):
        ExportedImage(str(tmp_path / "a.png"), upright=True).put_png(tmp_path / "other.png", channels=5 - channels)
