"""Files that are not what they seem: read with the right values, or refused by name, without waiting for ever."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from guided_diffusion.data.datasets import read_image
from guided_diffusion.data.files import list_files, open_image, open_mask, pages_of
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.good_images import scan_good_images
from guided_diffusion.data.scan.problems import Problem, ProblemKind, problem_lines
from guided_diffusion.data.scan.scan import scan_dataset
from guided_diffusion.runtime.errors import DataError

LABEL = np.kron(np.eye(3, dtype=np.uint8), np.full((8, 8), 255, np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("chunk", ["text", "compressed text", "international", "profile"])
def test_long_metadata_do_not_matter(tmp_path, chunk):
    info, more = PngImagePlugin.PngInfo(), {}
    if chunk == "international":
        info.add_itxt("history", "x" * 3_000_000, zip=True)
    elif chunk == "profile":
        more = {"icc_profile": bytes(3_000_000)}
    else:
        info.add_text("history", "x" * 3_000_000, zip=chunk == "compressed text")
    Image.fromarray(LABEL).save(tmp_path / "a.png", pnginfo=info, **more)
    assert np.array_equal(open_image(tmp_path / "a.png"), LABEL)
    assert np.array_equal(open_mask(tmp_path / "a.png"), LABEL)


def test_a_damaged_picture_with_long_metadata_is_still_damaged(tmp_path):
    buffer, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text("history", "x" * 3_000_000, zip=True)
    Image.fromarray(LABEL).save(buffer, "PNG", pnginfo=info)
    (tmp_path / "a.png").write_bytes(buffer.getvalue()[:-30])
    with pytest.raises(DataError) as error:
        open_image(tmp_path / "a.png")
    assert error.value.path == str(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["images", "masks", "good"])
def test_further_pages_are_told(tmp_path, kind):
    pages = {"save_all": True, "append_images": [Image.fromarray(LABEL[::-1])]}
    for name in ("images", "masks", "good"):
        file = tmp_path / ("good" if name == "good" else f"data/train/{name}") / "a.png"
        file.parent.mkdir(parents=True)
        Image.fromarray(LABEL).save(file, "TIFF", **(pages if name == kind else {}))
    report = scan_dataset(tmp_path / "data", get_mode("binary"), "train", progress=False)
    good, _, problems = scan_good_images(str(tmp_path / "good"), 1, "auto", progress=False)
    (problem,) = (each for each in (*report.problems, *problems) if each.kind is ProblemKind.PAGES)
    assert not problem.fatal
    assert len(good) == 1
    assert problem.path == str(tmp_path / ("good" if kind == "good" else f"data/train/{kind}") / "a.png")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "MPO"])
def test_frames_are_pages_of_animations_only(tmp_path, kind):
    """Cameras put previews beside the picture of an MPO, which is read as a JPEG."""
    path, more = tmp_path / "a", {"save_all": True, "append_images": [Image.fromarray(LABEL[::-1])]}
    Image.fromarray(LABEL).save(path, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert pages_of(open_image(path)) == 1
    Image.fromarray(LABEL).save(path, kind, **more, **({"lossless": True} if kind == "WEBP" else {}))
    found = open_image(path)
    assert pages_of(found) == (1 if kind == "MPO" else 2)
    with Image.open(path) as picture:
        assert np.array_equal(np.asarray(found.convert("RGB")), np.asarray(picture.convert("RGB")))


def test_thumbnails_are_no_pages(tmp_path):
    small = Image.fromarray(LABEL).resize((6, 6))
    Image.fromarray(LABEL).save(tmp_path / "a.tif", save_all=True, append_images=[small])
    assert pages_of(open_image(tmp_path / "a.tif")) == 1


@pytest.mark.parametrize("image_range", ["auto", (0, 200), "percentile"])
def test_lab_is_read_as_the_colors_that_it_is(tmp_path, image_range):
    values = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    lab = Image.fromarray(values, "LAB")
    lab.save(tmp_path / "lab.tif")
    lab.convert("RGB").save(tmp_path / "rgb.png")
    for channels in (1, 3):
        first, second = (
            read_image(tmp_path / name, channels, image_range=image_range) for name in ("lab.tif", "rgb.png")
        )
        assert np.array_equal(first, second)


LOSSY = {
    "jpeg": {"format": "JPEG", "quality": 95},
    "webp": {"format": "WEBP", "quality": 60},
    "webp with profile": {"format": "WEBP", "quality": 60, "icc_profile": b"profile"},
    "tiff with jpeg": {"format": "TIFF", "compression": "jpeg"},
    "jpeg 2000": {"format": "JPEG2000", "irreversible": True, "quality_layers": [40]},
    "avif": {"format": "AVIF", "quality": 60},
    "multi-picture jpeg": {"format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (24, 24))]},
}


@pytest.mark.parametrize("options", LOSSY.values(), ids=LOSSY.keys())
def test_lossy_masks_are_refused_whatever_they_are_called(tmp_path, options):
    try:
        Image.fromarray(LABEL).convert("RGB").save(tmp_path / "a.png", **options)
    except (KeyError, OSError):
        pytest.skip("this Pillow does not write the format")
    assert open_image(tmp_path / "a.png").size == (24, 24)
    with pytest.raises(DataError) as error:
        open_mask(tmp_path / "a.png")
    assert error.value.path == str(tmp_path / "a.png")
    assert "lossy" in error.value.found


LOSSLESS = {
    "png": {"format": "PNG"},
    "webp": {"format": "WEBP", "lossless": True},
    "tiff": {"format": "TIFF", "compression": "tiff_lzw"},
    "bmp": {"format": "BMP"},
    "gif": {"format": "GIF"},
}


@pytest.mark.parametrize("options", LOSSLESS.values(), ids=LOSSLESS.keys())
def test_lossless_masks_are_read_whatever_they_are_called(tmp_path, options):
    Image.fromarray(LABEL).save(tmp_path / "a.png", **options)
    assert np.array_equal(np.asarray(open_mask(tmp_path / "a.png").convert("L")), LABEL)


FOREIGN = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400),
    "HEIC of bursts": b"\0\0\0\x18ftypmsf1\0\0\0\0hevcmsf1" + bytes(400),
    "PDF": b"%PDF-1.7" + bytes(400),
    "DICOM": bytes(128) + b"DICM" + bytes(400),
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "NumPy": b"\x93NUMPY" + bytes(100),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_formats_that_are_not_read_are_named(tmp_path, name):
    (tmp_path / "a.jpg").write_bytes(FOREIGN[name])
    with pytest.raises(DataError) as error:
        open_image(tmp_path / "a.jpg")
    assert name.split(" of ")[0] in error.value.found


def _pipe(path):
    os.mkfifo(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
@pytest.mark.parametrize("make", [_pipe, lambda path: os.symlink("/dev/zero", path)], ids=["pipe", "device"])
def test_pipes_and_devices_are_not_read(tmp_path, make):
    make(tmp_path / "a.png")
    with pytest.raises(DataError) as error:
        open_image(tmp_path / "a.png")
    assert error.value.path == str(tmp_path / "a.png")


@pytest.mark.parametrize("folder", ["@eaDir", "__MACOSX", ".thumbnails"])
def test_folders_of_storage_and_archives_are_left_out(tmp_path, folder):
    for name in ("a.png", f"{folder}/a.png/SYNOFILE_THUMB_M.png", "deep/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [name for name, _ in list_files(tmp_path)] == ["a.png", "deep/b.png"]


def test_a_link_to_a_folder_above_is_named_and_another_link_is_followed(tmp_path):
    (tmp_path / "images/deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.png").write_bytes(b"x")
    (tmp_path / "images/more").symlink_to(tmp_path / "elsewhere")
    assert [name for name, _ in list_files(tmp_path / "images")] == ["more/a.png"]
    (tmp_path / "images/deep/again").symlink_to("..")
    with pytest.raises(DataError) as error:
        list_files(tmp_path / "images")
    assert error.value.path.endswith("images/deep/again")


def test_one_cause_is_one_line():
    alike = [Problem(f"/d/masks/p{i}.png", f"has {i} pixels", "mend it", ProblemKind.UNREADABLE) for i in range(50)]
    other = [Problem("/d/masks/x.png", "is empty", "mend it", ProblemKind.UNREADABLE)]
    elsewhere = [Problem("/d/images/p1.png", "has 1 pixels", "mend it", ProblemKind.UNREADABLE)]
    lines = problem_lines(alike + other + elsewhere)
    assert len(lines) == 3
    assert "49" in lines[0]
    assert problem_lines(alike[:3]) == [problem.line for problem in alike[:3]]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_few_repeated_files_are_one_line_with_what_they_repeat(count):
    kind = ProblemKind.LOOK_ALIKE
    repeated = [
        Problem(f"/d/b{i}.png", f"is /d/a{i}.png again", "keep one", kind, fatal=False, like=f"/d/a{i}.png")
        for i in range(count)
    ]
    (line,) = problem_lines(repeated)
    assert all(f"{name}{i}.png" in line for name in "ab" for i in range(count))
    assert problem_lines(repeated[:1]) == [repeated[0].line]


def test_masks_with_a_suffix_are_one_cause(build):
    masks = {f"p{i}.png": LABEL for i in range(8)}
    data = build(masks)
    for path in (data / "train/masks").iterdir():
        path.rename(path.with_name(path.stem + "_mask.png"))
    report = scan_dataset(data, get_mode("binary"), "train", progress=False)
    assert {problem.kind for problem in report.problems if problem.fatal} == {ProblemKind.IMAGE_WITHOUT_MASK}
    assert len(problem_lines([problem for problem in report.problems if problem.fatal])) == 1


def test_a_name_cannot_break_its_line():
    problem = Problem("/d/a\nerror: all is well\x1b[2J.png", "is empty", "mend it", ProblemKind.UNREADABLE)
    assert problem.line.isprintable()
    assert len(Problem("/d", "x" * 1_000_000, "mend it", ProblemKind.UNREADABLE).line) < 3000
