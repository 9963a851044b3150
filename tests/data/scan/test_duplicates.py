"""Images that are there twice: which pairs are named, and that images of different things are not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan import duplicates
from guided_diffusion.data.scan.duplicates import find_shared, find_shared_files, find_twins, look_alikes
from guided_diffusion.data.scan.problems import ProblemKind
from guided_diffusion.data.scan.scan import scan_dataset

REAL_DATA = Path(os.environ.get("ISDM_REAL_DATA", "no folder"))
"""A folder with magnetic_tile/ and magnetic_tile_good/, to try the rule on real images."""
KINDS = (ProblemKind.REPEATED_IMAGE, ProblemKind.TWO_MASKS, ProblemKind.LOOK_ALIKE)


def picture(index: int, size: int = 96) -> np.ndarray:
    """Return a textured RGB picture with a dark patch somewhere."""
    rng = np.random.default_rng(index)
    gray = 90 + 30 * np.sin(np.arange(size) / 7) + rng.normal(0, 8, (size, size))
    row, column = rng.integers(0, size // 2, 2)
    gray[row : row + size // 4, column : column + size // 3] -= 40
    return np.stack([gray, gray * 0.8, gray * 0.6], -1).clip(0, 255).astype(np.uint8)


def mask(index: int, size: int = 96) -> np.ndarray:
    label = np.zeros((size, size), np.uint8)
    label[index : index + 10, 5:20] = 1
    return label


@pytest.fixture
def train(build) -> Path:
    return build(
        {f"a{i}": mask(i) for i in range(8)}, images={f"a{i}.png": Image.fromarray(picture(i)) for i in range(8)}
    )


def put(root: Path, split: str, name: str, image: Image.Image, label: np.ndarray | None = None, **options) -> None:
    for kind in ("images", "masks"):
        (root / split / kind).mkdir(parents=True, exist_ok=True)
    image.save(root / split / "images" / name, **options)
    label = np.zeros(image.size[::-1], np.uint8) if label is None else label
    Image.fromarray(label).save(root / split / "masks" / f"{Path(name).stem}.png")


def scan(root: Path, split: str = "train", *, look_alikes: bool = True):
    return scan_dataset(root, get_mode("binary"), split, look_alikes=look_alikes, progress=False)


def shared(root: Path) -> list[tuple[str, str, str]]:
    test, train = (scan(root, split) for split in ("test", "train"))
    twins = find_shared((test.pairs, test.prints), (train.pairs, train.prints), train.encoding)
    return [(twin.pair.stem, twin.of.stem, twin.likeness) for twin in twins]


def kinds(report) -> list[tuple[ProblemKind, str]]:
    return [(problem.kind, Path(problem.path).name) for problem in report.warnings if problem.kind in KINDS]


def test_different_images_are_not_named(train):
    assert kinds(scan(train)) == []
    for index in range(8, 12):
        put(train, "test", f"t{index}.png", Image.fromarray(picture(index)))
    assert shared(train) == []


def test_a_copy_is_the_same_file_and_a_file_of_the_same_pixels_is_named_as_such(train):
    put(train, "test", "other.png", Image.fromarray(picture(50)))
    put(train, "test", "pixels.png", Image.fromarray(picture(3)), compress_level=1)
    shutil.copy(train / "train/images/a5.png", train / "test/images/copy.png")
    shutil.copy(train / "train/masks/a5.png", train / "test/masks/copy.png")
    assert shared(train) == [("copy", "a5", "file"), ("pixels", "a3", "pixels")]


CHANGES = {
    "jpeg.jpg": lambda image: image,
    "smaller.png": lambda image: image.resize((64, 64)),
    "larger.png": lambda image: image.resize((144, 144), Image.Resampling.BICUBIC),
    "brighter.png": lambda image: Image.eval(image, lambda value: min(255, value + 12)),
    "contrast.png": lambda image: Image.eval(image, lambda value: int(value * 0.85)),
    "gray.png": lambda image: image.convert("L"),
    "mirrored.png": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "upside.png": lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "turned.png": lambda image: image.transpose(Image.Transpose.ROTATE_90),
}


@pytest.mark.parametrize("name", CHANGES)
def test_look_alikes_are_named(train, name):
    for index in (20, 21):
        put(train, "test", f"t{index}.png", Image.fromarray(picture(index)))
    put(train, "test", name, CHANGES[name](Image.fromarray(picture(6))))
    assert shared(train) == [(Path(name).stem, "a6", "look-alike")]


@pytest.mark.parametrize("quality", [60, 75, 90])
def test_small_noisy_images_saved_anew_are_named(build, quality):
    root = build(
        {f"a{i}": mask(i, 48) for i in range(8)},
        images={f"a{i}.png": Image.fromarray(picture(i, 48)) for i in range(8)},
    )
    put(root, "test", "t.jpg", Image.fromarray(picture(2, 48)), quality=quality)
    put(root, "test", "u.png", Image.fromarray(picture(31, 48)))
    assert shared(root) == [("t", "a2", "look-alike")]


def test_flat_images_and_gradients_are_not_look_alikes(build):
    ramp = np.linspace(20, 200, 80).astype(np.uint8)
    images = {f"f{i}.png": np.full((80, 80), 30 * i, np.uint8) for i in range(3)}
    images |= {"g0.png": np.tile(ramp, (80, 1)), "g1.png": np.tile(ramp // 2, (80, 1))}
    root = build({name.removesuffix(".png"): mask(1, 80) for name in images}, images=images)
    assert kinds(scan(root)) == []


def test_within_a_split_the_later_one_is_named(train):
    put(train, "train", "b.png", Image.fromarray(picture(4)), mask(4))
    put(train, "train", "c.jpg", Image.fromarray(picture(7)), mask(7))
    report = scan(train)
    assert kinds(report) == [(ProblemKind.REPEATED_IMAGE, "b.png"), (ProblemKind.LOOK_ALIKE, "c.jpg")]
    assert not report.fatal
    # Without thumbnails, as training scans, equal pixels are found.
    assert kinds(scan(train, look_alikes=False)) == [(ProblemKind.REPEATED_IMAGE, "b.png")]


def test_one_image_with_two_masks(train):
    put(train, "train", "b.png", Image.fromarray(picture(4)), mask(30))
    report = scan(train)
    assert kinds(report) == [(ProblemKind.TWO_MASKS, "b.png")]
    (twin,) = find_twins(report.pairs, report.prints, report.encoding)
    assert (twin.pair.stem, twin.of.stem, twin.other_mask) == ("b", "a4", True)


def test_a_mask_written_in_another_way_is_no_other_mask(train):
    put(train, "train", "b.png", Image.fromarray(picture(4)))
    Image.fromarray(mask(4)).save(train / "train/masks/b.png", compress_level=0)
    assert kinds(scan(train)) == [(ProblemKind.REPEATED_IMAGE, "b.png")]


def test_what_only_a_test_mask_says_otherwise_is_told(train):
    put(train, "test", "t.png", Image.fromarray(picture(4)), mask(30))
    test, training = (scan(train, split) for split in ("test", "train"))
    (twin,) = find_shared((test.pairs, test.prints), (training.pairs, training.prints), training.encoding)
    assert (twin.of.stem, twin.other_mask) == ("a4", True)


def test_shared_files_are_found_by_reading_only_those_of_equal_size(train, monkeypatch):
    put(train, "test", "other.png", Image.fromarray(picture(50, 64)))
    (train / "test/images/broken.png").write_bytes(b"")
    (train / "test/masks/broken.png").write_bytes(b"")
    shutil.copy(train / "train/images/a5.png", train / "test/images/copy.png")
    shutil.copy(train / "train/masks/a5.png", train / "test/masks/copy.png")
    report = scan(train, look_alikes=False)
    test = scan(train, "test").pairs
    read = []
    monkeypatch.setattr(duplicates, "read_bytes", lambda path: read.append(Path(path).name) or Path(path).read_bytes())
    twins = find_shared_files(test, report.pairs, report.prints)
    assert [(twin.pair.stem, twin.of.stem, twin.likeness) for twin in twins] == [("copy", "a5", "file")]
    assert read == ["copy.png"]


def test_too_many_images_are_told_not_to_be_compared(train, monkeypatch):
    monkeypatch.setattr("guided_diffusion.data.scan.scan.MOST_COMPARED", 5)
    put(train, "train", "c.jpg", Image.fromarray(picture(7)), mask(7))
    assert kinds(scan(train)) == [(ProblemKind.LOOK_ALIKE, train.name)]


@pytest.mark.slow
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="ISDM_REAL_DATA names no folder")
@pytest.mark.parametrize("folder", ["magnetic_tile", "magnetic_tile_good"])
def test_of_real_tiles_only_photographs_of_one_tile_are_named(folder, tmp_path):
    # Numbers in the names run on: photographs of one tile lie within 3,000 of each other, other tiles mostly beyond.
    for path in sorted((REAL_DATA / folder).glob("*/images/*.jpg")):
        put(tmp_path, "train", path.name, Image.open(path))
    report = scan(tmp_path)
    found = look_alikes(report.prints)
    number = [int(pair.stem.rpartition("_")[2]) for pair in report.pairs]
    assert len(found) > 50
    assert max(abs(number[one] - number[other]) for one, other in found.items()) < 3000
