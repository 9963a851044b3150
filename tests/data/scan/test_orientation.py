"""EXIF orientations: image and mask of a pair are read in one geometry, or the pair is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from guided_diffusion.data.datasets import ExampleKey, SegmentationDataset, read_mask
from guided_diffusion.data.files import open_image, orientation, stored_size
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.good_images import orientation_of_both
from guided_diffusion.data.scan.orientation import turned
from guided_diffusion.data.scan.problems import ProblemKind
from guided_diffusion.data.scan.scan import scan_dataset, scan_masks
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.pipelines.placing.good_images import header_size

SHOWN = np.zeros((12, 20), np.uint8)
SHOWN[1:4, 2:9] = 1  # upper left, no symmetry
STORED_BY_TAG = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def stored(picture: Image.Image, tag: int) -> Image.Image:
    """Return the pixels that `tag` turns into `picture`."""
    turned = picture.transpose(STORED_BY_TAG[tag])
    exif = Image.Exif()
    exif[0x0112] = tag
    turned.info["exif"] = exif.tobytes()
    assert np.array_equal(ImageOps.exif_transpose(turned), picture)
    return turned


def write(folder, name: str, image: Image.Image, mask: Image.Image) -> None:
    for kind, picture in (("images", image), ("masks", mask)):
        path = folder / "train" / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, exif=picture.info.get("exif", b""))


def plain(picture: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(picture))


MASK = Image.fromarray(SHOWN * np.uint8(255))
IMAGE = Image.fromarray(SHOWN * np.uint8(200)).convert("RGB")


def scanned(folder, exif=None):
    return scan_dataset(folder, get_mode("binary"), "train", exif=exif, progress=False)


def of_kind(report, kind):
    return [problem for problem in report.problems if problem.kind is kind]


def assert_fits(report) -> None:
    """Image and mask show the object at the same place."""
    encoding = report.raise_if_fatal()
    for index in range(len(report.pairs)):
        size = Image.open(report.pairs[index].mask).size
        height, width = size[::-1] if not report.pairs[index].upright else SHOWN.shape
        data = SegmentationDataset(report.pairs, encoding, JointTransform((height, width), "squash", train=False))
        example = data[ExampleKey(0, index, 0, 1.0)]
        assert np.array_equal(example["image"][0] > 0, example["label"] == 1)


@pytest.mark.parametrize("tag", [3, 6, 8])
def test_one_tag_on_both_is_applied_to_both(tmp_path, tag):
    write(tmp_path, "a", stored(IMAGE, tag), stored(MASK, tag))
    report = scanned(tmp_path)
    assert_fits(report)
    assert report.pairs[0].upright
    (warning,) = of_kind(report, ProblemKind.ORIENTATION)
    assert not warning.fatal


@pytest.mark.parametrize("tag", [6, 8])
@pytest.mark.parametrize("drawn_on", ["shown", "stored"])
def test_sizes_decide_where_they_can(tmp_path, tag, drawn_on):
    turned = stored(IMAGE, tag)
    mask = MASK if drawn_on == "shown" else plain(stored(MASK, tag))
    write(tmp_path, "a", turned, mask)
    write(tmp_path, "b", IMAGE, MASK)
    report = scanned(tmp_path)
    assert [pair.upright for pair in report.pairs] == [drawn_on == "shown", True]
    assert_fits(report)


@pytest.mark.parametrize("tagged", ["image", "mask"])
def test_a_tag_on_one_of_two_equal_sizes_needs_the_option(tmp_path, tagged):
    image, mask = (stored(IMAGE, 3), MASK) if tagged == "image" else (IMAGE, stored(MASK, 3))
    write(tmp_path, "a", image, mask)
    (problem,) = of_kind(scanned(tmp_path), ProblemKind.ORIENTATION)
    assert problem.fatal
    assert problem.path.endswith("masks/a.png")
    assert_fits(scanned(tmp_path, "apply"))
    ignored = scanned(tmp_path, "ignore")
    assert not [problem for problem in ignored.problems if problem.fatal]
    assert not ignored.pairs[0].upright


def test_masks_drawn_on_stored_pixels_fit_with_ignore(tmp_path):
    write(tmp_path, "a", stored(IMAGE, 3), plain(stored(MASK, 3)))
    report = scanned(tmp_path, "ignore")
    encoding = report.raise_if_fatal()
    data = SegmentationDataset(report.pairs, encoding, JointTransform((12, 20), "squash", train=False))
    example = data[ExampleKey(0, 0, 0, 1.0)]
    assert np.array_equal(example["image"][0] > 0, example["label"] == 1)


def test_a_square_image_on_its_side_is_undecided(tmp_path):
    square = Image.fromarray(np.kron(np.eye(2, dtype=np.uint8), np.full((6, 6), 255, np.uint8)))
    write(tmp_path, "a", stored(square.convert("RGB"), 6), square)
    (problem,) = of_kind(scanned(tmp_path), ProblemKind.ORIENTATION)
    assert problem.fatal


def test_without_tags_nothing_is_said(tmp_path):
    write(tmp_path, "a", IMAGE, MASK)
    assert not of_kind(scanned(tmp_path), ProblemKind.ORIENTATION)


def test_masks_alone_are_turned_with_a_warning(tmp_path):
    write(tmp_path, "a", IMAGE, stored(MASK, 3))
    encoding = LabelEncoding(2, ("a", "b"), ((0,), (255,)))
    folder = tmp_path / "train/masks"
    report = scan_masks(folder, encoding, progress=False)
    (warning,) = of_kind(report, ProblemKind.ORIENTATION)
    assert not warning.fatal
    assert warning.path.endswith("masks/a.png")
    assert np.array_equal(read_mask(report.pairs[0].mask, encoding, upright=report.pairs[0].upright), SHOWN)
    for exif in ("apply", "ignore"):
        assert not of_kind(scan_masks(folder, encoding, exif=exif, progress=False), ProblemKind.ORIENTATION)


@pytest.mark.parametrize("tagged", ["mask", "instances"])
def test_an_instance_map_has_the_tag_of_its_mask(tmp_path, tagged):
    for folder, picture in (("train_img", IMAGE), ("train_label", plain(MASK)), ("train_inst", plain(MASK))):
        picture = stored(picture, 3) if (folder == "train_inst") == (tagged == "instances") else picture
        (tmp_path / folder).mkdir()
        picture.save(tmp_path / folder / "a.png", exif=picture.info.get("exif", b""))
    problems = of_kind(scan_dataset(tmp_path, get_mode("coco"), "train", progress=False), ProblemKind.ORIENTATION)
    (fatal,) = [problem for problem in problems if problem.fatal]
    assert fatal.path.endswith("train_inst/a.png")
    ignored = scan_dataset(tmp_path, get_mode("coco"), "train", exif="ignore", progress=False)
    assert not [problem for problem in of_kind(ignored, ProblemKind.ORIENTATION) if problem.fatal]


def test_one_image_with_two_masks_is_compared_as_it_is_read(tmp_path):
    """The masks have equal pixels, of which one is turned by its tag unless tags are ignored."""
    write(tmp_path, "a", IMAGE, MASK)
    tagged = plain(MASK)
    exif = Image.Exif()
    exif[0x0112] = 3
    tagged.info["exif"] = exif.tobytes()
    write(tmp_path, "b", IMAGE, tagged)
    assert of_kind(scanned(tmp_path, "apply"), ProblemKind.TWO_MASKS)
    assert not of_kind(scanned(tmp_path, "ignore"), ProblemKind.TWO_MASKS)


@pytest.mark.parametrize("tag", range(2, 9))
class TestTiff:
    """PIL turns them by itself, and forgets their tag."""

    @pytest.fixture(params=[None, "tiff_lzw"])
    def file(self, tag, tmp_path, request):
        exif = Image.Exif()
        exif[0x0112] = tag
        path = tmp_path / "a.tif"
        Image.fromarray(SHOWN).save(path, "TIFF", exif=exif, compression=request.param)
        return path

    def test_both_readings(self, tag, file):
        image = open_image(file, upright=False)
        assert np.array_equal(image, SHOWN)
        assert orientation(image) == tag
        assert stored_size(image) == image.size == SHOWN.shape[::-1]
        with Image.open(file) as opened:
            assert stored_size(opened) == SHOWN.shape[::-1]
        upright = open_image(file)
        tagged = Image.fromarray(SHOWN)
        tagged.getexif()[0x0112] = tag
        assert np.array_equal(upright, ImageOps.exif_transpose(tagged))
        assert orientation(upright) == 1
        for reading in (True, False):
            assert header_size(file, upright=reading) == np.asarray(open_image(file, upright=reading)).shape

    def test_sizes_tell_how_a_mask_was_drawn(self, tag, file, tmp_path):
        height, width = np.asarray(open_image(file)).shape
        for shape, upright in ((SHOWN.shape, False), ((height, width), True)):
            Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "mask.png")
            how = orientation_of_both(str(file), tmp_path / "mask.png")
            expected = (True, "nothing") if tag < 5 else (upright, "sizes")
            assert how == expected
            assert turned(open_image(file, upright=False), Image.open(tmp_path / "mask.png"), None) == expected
