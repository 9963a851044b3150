"""Bring the published magnetic tiles into the two datasets that configs/magnetic_tile/ and docs/results.md use.

    git clone https://github.com/abin24/Magnetic-tile-defect-datasets. tiles
    python scripts/prepare_magnetic_tile.py --data-dir tiles --output data

The tiles are those of Huang, Qiu and Yuan, "Surface defect saliency of magnetic tile" (The Visual Computer, 2020); the
dot belongs to the address. Each folder, MT_Blowhole to MT_Free, has Imgs/*.jpg and beside each image a mask of 0 and
255, a .png.

`<output>/magnetic_tile` gets the tiles with defects, with masks of 0 background, 1 blowhole, 2 break, 3 crack, 4 fray
and 5 uneven, `<output>/magnetic_tile_good` those of MT_Free, without masks. Images are copied as they are.

A tile was photographed at up to six exposures, and some several times. The images of one have numbers that follow each
other, as published names say, and get one name of the tile: MT_Crack/Imgs/exp1_num_249594.jpg becomes
crack_exp1_num_249594_tile093.jpg, which `group_pattern` "(tile\\d+)" reads.

The test images are those that configs/magnetic_tile/test_images.txt names, which are whole tiles; all others are for
training. Of the published images that is 163 of 392 with defects and 321 of 952 good ones. In the split of
test_images_mixed.txt, on which earlier results were measured, all but a few test images show tiles of train.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from dataset_folders import in_threads, named, put, refuse_filled, refuse_inside, run_script
from numpy.typing import NDArray
from PIL import Image

from guided_diffusion.data.files import check_sizes, open_image, open_mask, read_bytes
from guided_diffusion.data.masks.classes_file import FILE_NAME
from guided_diffusion.data.modes import DatasetMode, FileRule
from guided_diffusion.data.pairing import index_folder, index_pairs
from guided_diffusion.data.scan.problems import Problem, refuse_fatal
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import atomic_write, make_folder, move, reporting_os_errors, write_text

PREFIX, IMAGES, GOOD_FOLDER = "MT_", "Imgs", "MT_Free"
CLASSES = ("background", "blowhole", "break", "crack", "fray", "uneven")
FOLDERS = {f"{PREFIX}{name.capitalize()}": index for index, name in enumerate(CLASSES) if index}
DEFECTS, GOOD = "magnetic_tile", "magnetic_tile_good"
TEST_IMAGES = Path(__file__).resolve().parents[1] / "configs" / DEFECTS / "test_images.txt"
FAR = 400
"""Between numbers further apart lie images of different tiles."""
ONE_TILE = (85602, 88201)
"""First and last number of a tile that was photographed three times: pictures of it correlate by 0.99 and more."""

LEAST_DEFECT = 128
"""The least mask value of a defect; masks are of 0 and 255, but for what scaling or compression left at an edge."""
_IMAGE, _MASK = (".jpg",), (".png",)


class _Kind(Enum):
    UNKNOWN_FOLDER = "unknown folder"


@dataclass(frozen=True)
class Tile:
    """A published image, its name in the datasets, and its mask and class; a good one has neither."""

    name: str
    image: str
    mask: str | None = None
    index: int = 0


def name_tiles(tiles: Sequence[Tile]) -> list[Tile]:
    """Return the tiles with their physical tile at the end of their names: images of close numbers are of one."""
    last, count, suffixes = None, 0, {}
    for number, name in sorted((_number(tile.name), tile.name) for tile in tiles):
        inside = last is not None and ONE_TILE[0] <= last and number <= ONE_TILE[1]
        if last is None or (number - last > FAR and not inside):
            count += 1
        last, suffixes[name] = number, f"_tile{count:03d}"
    return [replace(tile, name=tile.name + suffixes[tile.name]) for tile in tiles]


def _number(name: str) -> int:
    digits = name.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else -1


def find_tiles(source: Path) -> list[Tile]:
    """Return all images, those with defects first; DataError for folders and files that are not as published."""
    expected = (*FOLDERS, GOOD_FOLDER)
    for folder in (source, *(source / name / IMAGES for name in expected)):
        if not folder.is_dir():
            raise DataError.of(
                folder, "the folder does not exist", f"--data-dir is the folder with {named(expected, 6)}"
            )
    remedy = f"remove it, as only {named(expected, 6)} are known"
    problems = [
        Problem(str(folder), "is not one of the published folders", remedy, _Kind.UNKNOWN_FOLDER)
        for folder in sorted(source.glob(f"{PREFIX}*"))
        if folder.is_dir() and folder.name not in expected
    ]
    tiles = []
    for name, index in FOLDERS.items():
        inside = f"{name}/{IMAGES}"
        pairs, new = index_pairs(source, DatasetMode(name, FileRule(inside, _IMAGE), FileRule(inside, _MASK)), "")
        tiles += [Tile(_own_name(name, pair.stem), pair.image, pair.mask, index) for pair in pairs]
        problems += new
    good, new = index_folder(str(source / GOOD_FOLDER / IMAGES), "image", FileRule("", _IMAGE), [FileRule("", _MASK)])
    refuse_fatal(problems + new)
    return tiles + [Tile(_own_name(GOOD_FOLDER, stem), path) for stem, path in sorted(good.items())]


def _own_name(folder: str, stem: str) -> str:
    return f"{folder.removeprefix(PREFIX).lower()}_{stem}"


def read_names(path: Path) -> set[str]:
    """Return the names in a text file, one a line, but for those after a #; DataError if there are none."""
    lines = read_bytes(path).decode("utf-8", errors="replace").splitlines()
    names = {line.strip() for line in lines if not line.startswith("#")} - {""}
    if not names:
        raise DataError.of(path, "names no image", "write the name of a test image in each line, without .jpg")
    return names


def read_label(tile: Tile) -> NDArray[np.uint8] | None:
    """Return the label map of a tile [H, W], None for a good one; DataError for files that do not fit."""
    if tile.mask is None:
        return None
    mask = np.asarray(open_mask(tile.mask).convert("L"))
    width, height = open_image(tile.image).size
    check_sizes(tile.mask, mask.shape, tile.image, (height, width))
    return np.where(mask >= LEAST_DEFECT, tile.index, 0).astype(np.uint8)


def prepare(arguments: argparse.Namespace) -> None:
    """Write both datasets, or nothing, and print where they are."""
    source, output = Path(arguments.data_dir).absolute(), Path(arguments.output).absolute()
    for dataset in (DEFECTS, GOOD):
        refuse_filled(output / dataset)
    for folder in (*FOLDERS, GOOD_FOLDER):
        refuse_inside(output, source / folder)
    tiles, named_in_test = find_tiles(source), read_names(arguments.test_images)
    if missing := sorted(named_in_test - {tile.name for tile in tiles}):
        remedy = "download all of it, or give other --test-images"
        raise DataError.of(source, f"lacks {named(missing)}, which {arguments.test_images} names", remedy)
    is_test = [tile.name in named_in_test for tile in tiles]
    tiles = name_tiles(tiles)
    in_test = {tile.name for tile, tested in zip(tiles, is_test, strict=True) if tested}
    labels = in_threads(read_label, tiles, "reading masks")
    make_folder(output)
    with reporting_os_errors(output), TemporaryDirectory(prefix=f".{DEFECTS}.", dir=output) as folder:
        write = partial(_write, output=Path(folder), in_test=in_test, link=arguments.link)
        in_threads(write, list(zip(tiles, labels, strict=True)), "writing tiles")
        names = {str(index): name for index, name in enumerate(CLASSES)}
        write_text(Path(folder, DEFECTS, FILE_NAME), json.dumps(names, indent=2) + "\n")
        for dataset in (DEFECTS, GOOD):
            if (output / dataset).is_dir():
                (output / dataset).rmdir()  # Windows renames onto no folder, not even an empty one
            move(Path(folder, dataset), output / dataset)
    counts = Counter((tile.mask is None, tile.name in in_test) for tile in tiles)
    for dataset, what, good in ((DEFECTS, "pairs", False), (GOOD, "good images", True)):
        print(f"{counts[good, False]} {what} for training, {counts[good, True]} for testing: {output / dataset}")
    empty = [tile.name for tile, label in zip(tiles, labels, strict=True) if label is not None and not label.any()]
    if empty:
        print(f"note: no defect is in the masks of {named(empty)}, which have no value of {LEAST_DEFECT} or more")


def _write(item: tuple[Tile, NDArray[np.uint8] | None], *, output: Path, in_test: Collection[str], link: bool) -> None:
    tile, label = item
    folder = output / (GOOD if label is None else DEFECTS) / ("test" if tile.name in in_test else "train")
    put(tile.image, folder / "images" / f"{tile.name}{Path(tile.image).suffix}", link=link)
    if label is not None:
        with atomic_write(folder / "masks" / f"{tile.name}.png") as temporary:
            Image.fromarray(label).save(temporary, format="PNG")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help=f"the folder with {named((*FOLDERS, GOOD_FOLDER), 6)}")
    parser.add_argument("--output", required=True, help=f"the folder that gets {DEFECTS} and {GOOD}, such as data")
    parser.add_argument(
        "--test-images", type=Path, default=TEST_IMAGES, help="a file with the name of a test image a line"
    )
    parser.add_argument("--link", action="store_true", help="hard links to the images instead of copies")
    run_script(prepare, parser.parse_args(argv))


if __name__ == "__main__":
    main()
