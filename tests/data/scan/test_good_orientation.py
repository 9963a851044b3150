"""EXIF orientations of good images: image and mask are read in one geometry, that of the pairs, or refused."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image
from test_orientation import IMAGE, MASK, SHOWN, plain, scanned, stored, write

from guided_diffusion.data.datasets import ExampleKey, SegmentationDataset
from guided_diffusion.data.files import orientation
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.scan.good_images import list_upright, scan_good_images
from guided_diffusion.data.scan.problems import ProblemKind
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.runtime.errors import DataError

ENCODING = LabelEncoding(2, ("a", "b"), ((0,), (255,)))


def write_good(folder, name: str, image: Image.Image, mask: Image.Image | None = None):
    for kind, picture in (("images", image), *((("masks", mask),) if mask is not None else ())):
        path = folder / "good" / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, exif=picture.info.get("exif", b""))
    return str(folder / "good")


def scanned_good(folder: str, exif=None, pairs=()):
    good, _, problems = scan_good_images(folder, 3, "auto", encoding=ENCODING, exif=exif, pairs=pairs, progress=False)
    return good, [problem for problem in problems if problem.kind is ProblemKind.ORIENTATION]


def assert_fits(good) -> None:
    """Image and label map show the object at the same place, as training reads them."""
    size = SHOWN.shape if good[0].upright else Image.open(good[0].mask).size[::-1]
    data = SegmentationDataset([], ENCODING, JointTransform(size, "squash", train=False), good_images=good)
    example = data[ExampleKey(0, 0, 0, 1.0)]
    assert np.array_equal(example["image"][0] > 0, example["label"] == 1)


@pytest.mark.parametrize("drawn_on", ["shown", "stored"])
@pytest.mark.parametrize("tag", [6, 8])
def test_sizes_decide_where_they_can(tmp_path, tag, drawn_on):
    mask = MASK if drawn_on == "shown" else plain(stored(MASK, tag))
    folder = write_good(tmp_path, "a", stored(IMAGE, tag), mask)
    good, problems = scanned_good(folder)
    assert [problem.fatal for problem in problems] == [False]
    assert good[0].upright == (drawn_on == "shown")
    assert_fits(good)
    assert list_upright(folder, None) == good


@pytest.mark.parametrize("tagged", ["image", "mask"])
def test_a_tag_on_one_of_two_equal_sizes_needs_the_option(tmp_path, tagged):
    image, mask = (stored(IMAGE, 3), MASK) if tagged == "image" else (IMAGE, stored(MASK, 3))
    folder = write_good(tmp_path, "a", image, mask)
    _, (problem,) = scanned_good(folder)
    assert problem.fatal
    with pytest.raises(DataError) as refused:
        list_upright(folder, None)
    assert refused.value.path == problem.path == f"{folder}/masks/a.png"
    assert_fits(scanned_good(folder, "apply")[0])
    assert [good.upright for good in list_upright(folder, "ignore")] == [False]


@pytest.mark.parametrize("drawn_on", ["shown", "stored"])
def test_images_without_masks_are_read_as_those_of_the_pairs(tmp_path, drawn_on):
    write(tmp_path, "a", stored(IMAGE, 6), MASK if drawn_on == "shown" else plain(stored(MASK, 6)))
    folder, pairs = write_good(tmp_path, "b", stored(IMAGE, 6)), scanned(tmp_path).pairs
    good, problems = scanned_good(folder, pairs=pairs)
    if drawn_on == "shown":
        assert good[0].upright
        assert not problems
        assert list_upright(folder, None, pairs) == good
    else:  # where nothing tells whether their tags are as wrong
        assert [problem.fatal for problem in problems] == [True]
        with pytest.raises(DataError, match="exif"):
            list_upright(folder, None, pairs)
    assert [each.upright for each in list_upright(folder, "ignore", pairs)] == [False]


def test_the_tag_of_a_png_is_found_without_its_pixels(tmp_path):
    """Before them or behind them, also where they are cut off."""
    tagged = stored(IMAGE, 6)
    tagged.save(tmp_path / "a.png", exif=tagged.info["exif"])
    IMAGE.save(tmp_path / "plain.png")
    for name, tag in (("a", 6), ("plain", 1)):
        content = (tmp_path / f"{name}.png").read_bytes()
        cut = content[: content.index(b"IDAT") + 8]
        assert orientation(Image.open(io.BytesIO(cut))) == tag
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    behind = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    (tmp_path / "behind.png").write_bytes(behind)
    with Image.open(tmp_path / "behind.png") as image:
        assert orientation(image) == 6
    assert os.path.getsize(tmp_path / "behind.png") == len(content)
