"""The mark of synthetic images: other programs read it, pixels and the kind of PNG stay as they were."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from odd_images import write_png
from PIL import Image

from guided_diffusion.data.files import open_image
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.samples.manifest import PlaceSettings, SampleSettings
from guided_diffusion.samples.mark import mark_of, write_mark

SETTINGS = SampleSettings(sampler="ddim", steps=4, s=1.5, checkpoint="0" * 16)
NEWSCODE = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def source_type(path: Path) -> str:
    """Return the digital source type that the XMP packet of an image names."""
    with Image.open(path) as image:
        image.load()
        packet = image.info["XML:com.adobe.xmp"]
    (found,) = ElementTree.fromstring(packet).iter("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")
    return found.text.removeprefix(NEWSCODE)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_marked_image_has_the_same_pixels(tmp_path, kind, channels):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (9, 7, channels), kind)
    before = write_png(tmp_path / "a.png", pixels)
    image = NativeImage.read(before, 1 if channels == 1 else 3)
    for name in ("plain", "marked", "again"):
        image.save(tmp_path / f"{name}.png")
    for name in ("marked", "again"):
        write_mark(tmp_path / f"{name}.png", mark_of("compositeWithTrainedAlgorithmicMedia", PlaceSettings(), 3))
    plain, marked = (open_image(tmp_path / f"{name}.png") for name in ("plain", "marked"))
    assert (plain.mode, plain.size) == (marked.mode, marked.size)
    assert np.array_equal(np.asarray(plain), np.asarray(marked))
    read = [NativeImage.read(tmp_path / f"{name}.png", image.pixels.shape[2]) for name in ("plain", "marked")]
    assert np.array_equal(read[0].pixels, read[1].pixels)
    with Image.open(tmp_path / "marked.png") as file:
        file.verify()  # raises for a checksum that does not fit
    assert source_type(tmp_path / "marked.png") == "compositeWithTrainedAlgorithmicMedia"
    assert (tmp_path / "marked.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_the_text_names_settings_and_no_file_of_the_computer(tmp_path):
    path = write_png(tmp_path / "a.png", np.zeros((4, 4, 1), np.uint8))
    write_mark(path, mark_of("trainedAlgorithmicMedia", SETTINGS, 7))
    with Image.open(path) as image:
        image.load()
        texts = image.info
    assert texts["Software"] == "ISDM"
    for part in ("synthetic", "seed 7", "sampler ddim", "steps 4", "s 1.5", "0" * 16):
        assert part in texts["Comment"]
    assert str(tmp_path) not in repr(texts)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_reads_the_mark(tmp_path):
    path = write_png(tmp_path / "a.png", np.zeros((4, 4, 1), np.uint8))
    write_mark(path, mark_of("trainedAlgorithmicMedia", SETTINGS, 7))
    command = ["exiftool", "-json", "-n", "-validate", "-all", str(path)]
    (tags,) = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert tags["DigitalSourceType"] == NEWSCODE + "trainedAlgorithmicMedia"
    assert tags["Software"] == "ISDM"
    assert tags["Validate"] == "0 0 0"  # errors and warnings
