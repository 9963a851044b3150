"""The scan of images without masks finds in them what the scan of pairs finds in theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion.data.datasets import ExampleKey, SegmentationDataset
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import index_images
from guided_diffusion.data.scan.images import NO_CLASSES, scan_images
from guided_diffusion.data.scan.problems import ProblemKind
from guided_diffusion.data.transforms import JointTransform

MODE = get_mode("images")


def picture(seed: int, size: tuple[int, int] = (24, 32)) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    return coarse.resize(size[::-1], Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path) -> Path:
    for index in range(6):
        path = tmp_path / ("a" if index % 2 else "b") / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        picture(index).save(path)
    return tmp_path


def scan(folder: Path, **options):
    return scan_images(*index_images("", MODE, "train", folder), where=str(folder), progress=False, **options)


def kinds(report) -> list[ProblemKind]:
    return [problem.kind for problem in report.problems]


def test_what_is_found_of_sound_images(folder):
    report = scan(folder)
    assert not report.problems
    assert [pair.stem for pair in report.pairs] == sorted(pair.stem for pair in report.pairs)
    assert all(pair.mask is None for pair in report.pairs)
    assert report.image_sizes == ((24, 32),) * 6
    assert len({each.pixels for each in report.prints}) == 6
    assert report.noun == "images"
    assert "6 images, width 32, height 24" in report.table()


def test_look_alikes_and_repeats(folder):
    picture(1).save(folder / "again.bmp")
    picture(2).save(folder / "lossy.jpg", quality=85)
    assert kinds(scan(folder)) == [ProblemKind.REPEATED_IMAGE]
    assert sorted(kind.value for kind in kinds(scan(folder, look_alikes=True))) == sorted(
        [ProblemKind.REPEATED_IMAGE.value, ProblemKind.LOOK_ALIKE.value]
    )


def test_brightness_colors_and_a_short_batch(folder):
    for path in folder.rglob("*.png"):
        deep = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16  # 12 bits in 16
        Image.fromarray(deep).save(path)
    found = kinds(scan(folder, batch_size=7))
    assert set(found) == {ProblemKind.IMAGE_DEPTH, ProblemKind.IMAGE_COLORS, ProblemKind.SHORT_BATCH}


def test_blank_images(folder):
    Image.new("RGB", (32, 24), (90, 90, 90)).save(folder / "blank.png")
    assert ProblemKind.BLANK_IMAGES in kinds(scan(folder))


@pytest.mark.parametrize(("exif", "size", "warned"), [(None, (32, 24), True), ("apply", (32, 24), False),
                                                      ("ignore", (24, 32), False)])  # fmt: skip
def test_orientations(folder, exif, size, warned):
    tag = Image.Exif()
    tag[0x0112] = 6
    picture(9).save(folder / "turned.jpg", exif=tag)
    report = scan(folder, exif=exif)
    index = next(index for index, pair in enumerate(report.pairs) if pair.image.endswith("turned.jpg"))
    assert report.image_sizes[index] == size
    assert report.pairs[index].upright == (exif != "ignore")
    assert (ProblemKind.ORIENTATION in kinds(report)) == warned
    assert not report.fatal


def test_what_cannot_be_read_is_fatal_and_named(folder):
    (folder / "a" / "1.png").write_bytes(b"\x89PNG\r\n")
    (folder / "empty.jpg").touch()
    (folder / "a" / "3.bmp").write_bytes((folder / "a" / "3.png").read_bytes())
    report = scan(folder)
    assert {Path(problem.path).name for problem in report.fatal} == {"1.png", "empty.jpg", "3.png"}
    assert [problem.kind for problem in report.fatal].count(ProblemKind.DUPLICATE) == 1


@pytest.mark.parametrize("inside", ["masks", "Labels"])
def test_masks_are_no_images(folder, inside):
    (folder / inside).mkdir()
    Image.new("L", (32, 24)).save(folder / inside / "0.png")
    assert ProblemKind.FOLDER in [problem.kind for problem in scan(folder).fatal]


def test_images_of_a_split_come_before_those_beside_it(folder, tmp_path):
    split = tmp_path / "data" / "train" / "images"
    split.mkdir(parents=True)
    picture(20).save(split / "zebra.tif")
    images, problems = index_images(tmp_path / "data", MODE, "train", folder / "a")
    assert not problems
    assert [pair.stem for pair in images] == ["zebra", "image_dir: 1", "image_dir: 3", "image_dir: 5"]


def test_examples_have_one_class_and_the_pixels_of_the_image(folder):
    report = scan(folder)
    dataset = SegmentationDataset(report.pairs, NO_CLASSES, JointTransform((24, 32), resize="squash", train=False))
    example = dataset[ExampleKey(0, 2, 0, 1.0)]
    expected = np.asarray(Image.open(report.pairs[2].image)).transpose(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(example["image"], torch.from_numpy(expected).float())
    assert example["label"].unique().tolist() == [0]
    assert dataset.caches
