"""How placed defects are compared with those of the training images."""

from __future__ import annotations

from pathlib import Path

import command_line
import numpy as np
import pytest
from odd_images import write_png
from parts import noise, write_parts
from PIL import Image

from guided_diffusion.config.load import load_config
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.pairing import Pair, index_pairs, list_good_images
from guided_diffusion.pipelines.looks import ComparedLooks, compare_looks
from guided_diffusion.pipelines.placing.good_images import narrower_range, other_scale
from guided_diffusion.samples.manifest import read_manifest

SIZE, DARK = (48, 48), 20
SPOT = np.zeros(SIZE, bool)
SPOT[20:26, 20:26] = True


def ground(seed: int, kind: type) -> np.ndarray:
    return np.random.default_rng(seed).normal(150, 4, SIZE).round().astype(kind)


@pytest.fixture(params=[np.uint8, np.uint16])
def placed(request, tmp_path) -> tuple[Path, Path, list]:
    """A dataset of dark spots, and eight of them in good images: folder of the data, of the pairs, and their lines."""
    for number in range(8):
        image = ground(number, request.param)
        write_png(tmp_path / f"good/{number}.png", ground(100 + number, request.param))
        image[SPOT] = DARK
        write_png(tmp_path / f"data/train/images/{number}.png", image)
        write_png(tmp_path / f"data/train/masks/{number}.png", SPOT.astype(np.uint8))
    values = {"data_dir": tmp_path / "data", "dataset_mode": "binary", "good_dir": tmp_path / "good"}
    values |= {"results_path": tmp_path / "placed", "blend": "none", "defects_per_image": 1}
    assert command_line.run("paste", **values) == 0
    return tmp_path / "data", tmp_path / "placed", read_manifest(tmp_path / "placed/manifest.jsonl")


def compared(data: Path, folder: Path, lines: list, image_range) -> ComparedLooks:
    trained = TrainedConfig.from_flat(
        {"dataset_mode": "binary", "image_channels": 1, "image_range": image_range, "resize": "window"}
    )
    config = load_config("place", {"data_dir": str(data), "good_dir": "g", "model_path": "m", "results_path": "r"})
    encoding = LabelEncoding.identity(2, ("background", "foreground"))
    looks = compare_looks(config, trained, encoding, folder, lines)
    assert looks is not None
    return looks


@pytest.mark.parametrize("image_range", ["percentile", "auto", (0, 255)], ids=str)
def test_contrast_is_that_of_the_files(placed, image_range):
    """Painted as dark as the range of a good image goes, which is as black to the model as the spots it learned."""
    data, folder, lines = placed
    for line in lines:
        path, mask = folder / line.image, np.asarray(Image.open(folder / line.mask)) > 0
        good = NativeImage.read(path, 1)
        black = NativeImage.read(folder.parent / "good" / Path(line.good_image).name, 1, "percentile").low
        good.pixels[mask] = black
        good.save(path)
    kind = good.pixels.dtype
    if kind == np.uint16 and image_range == "auto":
        return  # values to 150 of 65535 are black to such a model
    looks = compared(data, folder, lines, image_range)
    (name,) = looks.placed
    assert looks.ratio(name) == pytest.approx((150 - black) / 130, abs=0.05)
    (warning,) = looks.warnings(1.0)
    assert ("image_range" in warning) == (image_range == "percentile")


def test_defects_as_strong_as_the_real_ones_pass(placed):
    looks = compared(*placed, "percentile")
    (name,) = looks.placed
    assert looks.ratio(name) == pytest.approx(1, abs=0.1)
    assert not looks.warnings(1.0)


def test_narrow_good_images_are_told_before_painting(placed):
    data, folder, _ = placed
    pairs, _ = index_pairs(data, get_mode("binary"), "train")
    good = list_good_images(folder.parent / "good")
    (line,) = narrower_range(good, pairs, "percentile")
    assert line.startswith("warning: image_range")
    assert not narrower_range(good, pairs, "auto")
    assert not narrower_range(list_good_images(folder / "images"), pairs, "percentile")  # which have spots
    assert not narrower_range(good, (), "percentile")


@pytest.mark.parametrize(
    ("kinds", "levels", "image_range", "found"),
    [
        (
            (np.uint16, np.uint8),
            (1600, 100),
            "auto",
            ("1600 to 1600 (16 bits)", "100 to 100 (8 bits)", "16 times darker"),
        ),
        ((np.uint16, np.uint16), (26_000, 1600), "auto", ("26000", "1600", "16 times brighter")),
        ((np.uint16, np.uint8), (2000, 100), (0, 4095), ("2000", "100", "20 times brighter")),
        ((np.uint16, np.uint16), (1600, 1500), (0, 4095), ()),
        ((np.uint16, np.uint8), (25_700, 60), "auto", ()),
        ((np.uint8, np.uint8), (0, 1), "auto", ()),
    ],
)
def test_other_scales_are_told(tmp_path, kinds, levels, image_range, found):
    folders = []
    for name, kind, level in zip(("good", "train"), kinds, levels, strict=True):
        folders.append(write_png(tmp_path / name / "a.png", np.full((8, 8), level, kind)).parent)
    good, pairs = list_good_images(folders[0]), [Pair("a", str(folders[1] / "a.png"), "")]
    lines = other_scale(good, pairs, image_range)
    assert len(lines) == bool(found)
    for line in lines:
        assert line.startswith(f"warning: {good[0].image}: ")
        assert all(each in line for each in (pairs[0].image, *found))


def test_a_paste_of_other_scale_is_told(tmp_path, isdm):
    data = write_parts(tmp_path / "data")
    good = write_png(tmp_path / "good/a.png", noise((40, 56), 1).astype(np.uint16) * 16).parent
    values = {"data_dir": data, "dataset_mode": "multi-class", "good_dir": good, "results_path": tmp_path / "out"}
    code, shown, _ = isdm("paste", **values)
    assert code == 0
    (line,) = (line for line in shown.splitlines() if "times darker" in line)
    assert line.startswith(f"warning: {good / 'a.png'}: good images have values from ")
