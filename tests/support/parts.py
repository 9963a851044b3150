"""Good images of a part and a dataset of its defects, for the tests of `place`: noise, with spots and cracks in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import command_line
import numpy as np
from numpy.typing import NDArray
from odd_images import write_png
from PIL import Image
from scipy import ndimage
from tiny import TINY

from guided_diffusion.data.components import find_components
from guided_diffusion.data.deep_color import deep_samples

NAMES = ("background", "plate", "spot", "crack")
BACKGROUND, PLATE, SPOT, CRACK = range(len(NAMES))
SIZE = 40, 56
SIZES = {"a": (40, 56), "b": (33, 47), "sub/c": (14, 60), "d": (70, 51)}
"""Of the good images."""
WINDOWS = {**TINY, "resize": "window", "inpaint": True, "image_channels": 1, "max_epochs": 1}
FEW_STEPS = {"steps": 2, "hole_margin": 3, "feather": 2}


def noise(size: tuple[int, int], seed: int, channels: int = 1, kind: type = np.uint8) -> NDArray[np.integer]:
    """Return gray noise around a gray level, [H, W, channels]."""
    top = np.iinfo(kind).max
    return np.random.default_rng(seed).integers(top // 3, top // 2, (*size, channels), kind)


def defects(number: int, size: tuple[int, int] = SIZE, host: int = BACKGROUND) -> NDArray[np.uint8]:
    """Return a label map with a spot of 5 px, and in every other one a crack of 2 px that is 9 px long."""
    label = np.full(size, BACKGROUND, np.uint8)
    if host != BACKGROUND:
        label[4:-4, 8:-8] = host
    label[10 + number : 15 + number, 12 + 2 * number : 17 + 2 * number] = SPOT
    if number % 2:
        for step in range(9):
            label[24 + step, 36 + step // 3 : 38 + step // 3] = CRACK
    return label


def write_parts(
    folder: Path, *, channels: int = 1, kind: type = np.uint8, host: int = BACKGROUND, pairs: int = 6
) -> Path:
    """Write a dataset: {train,test}/{images,masks} and classes.json."""
    for split, numbers in (("train", range(pairs)), ("test", range(pairs, pairs + 3))):
        for number in numbers:
            label, image = defects(number % 6, host=host), noise(SIZE, number, channels, kind)
            image[label == PLATE] += image.dtype.type(20)
            image[label >= SPOT] = np.iinfo(kind).max - 5
            write_png(folder / split / "images" / f"part_{number}.png", image)
            write_png(folder / split / "masks" / f"part_{number}.png", label)
    (folder / "classes.json").write_text(json.dumps({str(index): name for index, name in enumerate(NAMES)}))
    return folder


def write_good(
    folder: Path,
    sizes: Mapping[str, tuple[int, int]],
    *,
    channels: int = 1,
    kind: type = np.uint8,
    masks: bool = False,
) -> Path:
    """Write good images of (height, width), in images/ and masks/ where they have `masks`, of a plate on a table."""
    for number, (name, size) in enumerate(sizes.items()):
        write_png(folder / ("images" if masks else "") / f"{name}.png", noise(size, 100 + number, channels, kind))
        if masks:
            label = np.full(size, BACKGROUND, np.uint8)
            label[4:-4, 8:-8] = PLATE
            write_png(folder / "masks" / f"{name}.png", label)
    return folder


def train(data: Path, folder: Path, **values: Any) -> Path:
    """Train an inpainting network on gray windows of 16 px, and return the folder of the run."""
    assert command_line.run("train", **{**WINDOWS, "data_dir": data, "output_dir": folder, **values}) == 0
    return folder


def pixels_of(path: Path) -> np.ndarray:
    """Return the samples of a file, of its own type."""
    with Image.open(path) as image:
        image.load()
        deep = None if image.mode in ("L", "RGB") else deep_samples(image, str(path))
        return np.asarray(image) if deep is None else deep.squeeze()


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "config.json"
    }


def pairs_of(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in bytes_of(folder).items() if name.startswith(("images", "masks", "mani"))}


def check_pairs(folder: Path, *, margin: int, ordinary: tuple[int, ...] = (BACKGROUND,)) -> None:
    """Outside the holes images are the good ones; masks have the defects that the manifest names, and no others."""
    lines = lines_of(folder)
    assert lines
    for line in lines:
        good, result = pixels_of(Path(line["good_image"])), pixels_of(folder / line["image"])
        label = pixels_of(folder / line["mask"])
        assert result.dtype == good.dtype
        assert result.shape == good.shape
        mask = ~np.isin(label, ordinary)
        hole = ndimage.distance_transform_edt(~mask) <= margin if mask.any() else mask
        assert np.array_equal(result[~hole], good[~hole])
        found = {
            (NAMES[part.class_id], (part.box.left, part.box.top, part.box.right, part.box.bottom))
            for part in find_components(label, (SPOT, CRACK))
        }
        assert {(defect["class"], tuple(defect["box"])) for defect in line["defects"]} == found
        if mask.any():
            assert not np.array_equal(result[mask], good[mask])
