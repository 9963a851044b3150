"""Listing good images: which files of a folder count, and what is refused."""

from __future__ import annotations

import pytest
from PIL import Image

from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.pairing import GoodImage, list_good_images
from guided_diffusion.data.scan.good_images import scan_good_images
from guided_diffusion.data.scan.problems import ProblemKind
from guided_diffusion.runtime.errors import DataError


def touch(folder, *names) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_images_of_a_folder_and_its_sub_folders_are_sorted(tmp_path):
    touch(tmp_path, "b.png", "a/c.JPG", "a/b.tiff", "z.bmp", ".hidden.png", "notes.txt")
    expected = [("a/b", "a/b.tiff"), ("a/c", "a/c.JPG"), ("b", "b.png"), ("z", "z.bmp")]
    assert list_good_images(tmp_path) == [GoodImage(stem, str(tmp_path / name)) for stem, name in expected]


def test_a_folder_of_images_alone_has_priority(tmp_path):
    touch(tmp_path, "sheet.png", "images/day 1/a.png", "images/b.jpg")
    found = list_good_images(tmp_path, upright=False)
    assert [(good.stem, good.mask, good.upright) for good in found] == [("b", None, False), ("day 1/a", None, False)]


def test_masks_go_with_their_images(tmp_path):
    touch(tmp_path, "images/a.jpg", "images/x/b.png", "masks/a.png", "masks/x/b.png", "masks/unused.png")
    masks = [str(tmp_path / f"masks/{stem}.png") for stem in ("a", "x/b")]
    assert [good.mask for good in list_good_images(tmp_path)] == masks


def test_texts_in_labels_and_a_product_of_that_name_are_no_masks(tmp_path):
    touch(tmp_path, "images/a.jpg", "images/label/b.png", "labels/a.txt")
    assert [(good.stem, good.mask) for good in list_good_images(tmp_path)] == [("a", None), ("label/b", None)]


REFUSED = {
    "missing": ([], "good", "good"),
    "a file": (["good"], "good", "good"),
    "no images": (["good/notes.txt"], "good", "good"),
    "no images in images": (["good/images/notes.txt", "good/a.png"], "good", "good/images"),
    "two of one stem": (["good/a.png", "good/a.jpg"], "good", "good/a.png"),
    "an image without its mask": (
        ["good/images/a.png", "good/images/b.png", "good/masks/a.png"],
        "good",
        "good/images/b.png",
    ),
    "no masks in masks": (["good/images/a.png", "good/masks/a.jpg"], "good", "good/masks"),
    "a dataset above its splits": (
        ["data/train/images/a.png", "data/train/masks/a.png"],
        "data",
        "data/train/masks/a.png",
    ),
    "masks in Labels": (["good/images/a.png", "good/Labels/a.png"], "good", "good/Labels"),
    "a dataset with labels": (["data/a/images/1.png", "data/a/labels/1.png"], "data", "data/a/labels/1.png"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_names_the_file_or_folder(tmp_path, name):
    files, folder, named = REFUSED[name]
    touch(tmp_path, *files)
    with pytest.raises(DataError) as error:
        list_good_images(tmp_path / folder)
    assert len(error.value.messages) == 1
    assert str(error.value).startswith(f"{tmp_path / named}: ")


@pytest.mark.parametrize(("masks", "removed"), [(False, "remove the image"), (True, "remove the pair")])
def test_damaged_images_are_named_with_what_goes_with_them(tmp_path, masks, removed):
    for stem in ("cut", "empty", "sound"):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.effect_noise((16, 16), 50).save(tmp_path / "images" / f"{stem}.png")
        if masks:
            (tmp_path / "masks").mkdir(exist_ok=True)
            Image.new("L", (16, 16)).save(tmp_path / "masks" / f"{stem}.png")
    cut, empty = (tmp_path / "images" / f"{stem}.png" for stem in ("cut", "empty"))
    cut.write_bytes(cut.read_bytes()[:100])
    empty.write_bytes(b"")
    images, _, problems = scan_good_images(str(tmp_path), 3, "auto", progress=False)
    assert [good.stem for good in images] == ["sound"]
    assert [(problem.kind, problem.path) for problem in problems] == [
        (ProblemKind.UNREADABLE, str(cut)),
        (ProblemKind.UNREADABLE, str(empty)),
    ]
    assert all(removed in problem.remedy for problem in problems)


def test_painting_into_a_damaged_image_names_no_pair(tmp_path):
    for content in (b"", b"no picture"):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(DataError) as error:
            NativeImage.read(tmp_path / "a.png", 3)
        assert "remove the image" in error.value.remedy
