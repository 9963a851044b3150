"""CelebAMask-HQ as downloaded, in small, becomes a dataset of mode celeba."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import prepare_celebamask
import pytest
from error_lines import check_error
from PIL import Image
from prepare_celebamask import CLASSES, enlarge, merge

from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.scan import scan_dataset

Run = Callable[..., str]
SIDE = 12
# Of each face: part -> first row of its mask, which goes down to the last; written to the folder of that number.
FACES = {
    0: (0, {"skin": 2, "hair": 6, "nose": 4}),
    1: (0, {"skin": 0, "cloth": 9}),
    2001: (1, {"neck": 3, "ear_r": 5}),
    28000: (14, {"skin": 1, "l_eye": 8, "hat": 10}),
}
# Class in every row, with the later of two overlapping parts: skin 1, nose 2, left eye 4, hair 13, hat 14, earring 15,
# neck 17, cloth 18.
ROWS = {
    0: [0, 0, 1, 1, 2, 2, 13, 13, 13, 13, 13, 13],
    1: [1] * 9 + [18] * 3,
    2001: [0] * 3 + [17] * 9,
    28000: [0] + [1] * 7 + [4] * 2 + [14] * 2,
}


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """Write four faces of 24 px with parts of 12 px in color PNGs, and files that a download has beside them."""
    root = tmp_path / "CelebAMask-HQ"
    for number, (folder, parts) in FACES.items():
        picture = np.random.default_rng(number).integers(0, 256, (2 * SIDE, 2 * SIDE, 3), np.uint8)
        save(picture, root / "CelebA-HQ-img" / f"{number}.jpg")
        for part, row in parts.items():
            mask = np.zeros((SIDE, SIDE, 3), np.uint8)
            mask[row:] = 255
            save(mask, root / "CelebAMask-HQ-mask-anno" / str(folder) / f"{number:05d}_{part}.png")
    (root / "CelebAMask-HQ-mask-anno" / "0" / ".DS_Store").write_bytes(b"x")
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text("idx")
    return root


def save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def prepare(download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the script into `tmp_path / "celeba"` (or `output`); returns what it printed, or its error."""

    def run(*options: str, output: str = "celeba") -> str:
        try:
            prepare_celebamask.main(["--data-dir", str(download), "--output", str(tmp_path / output), *options])
        except SystemExit as end:
            lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
            return "\n".join(lines) or str(end.code)
        return capsys.readouterr().out

    return run


def test_classes_are_in_the_order_of_the_mode() -> None:
    names = get_mode("celeba").names
    same = {"eye_g": "eyeglasses", "ear_r": "earring", "neck_l": "necklace", "u_lip": "upper lip", "l_lip": "lower lip"}
    for part, index in CLASSES.items():
        spelled = part.replace("l_", "left ", 1) if part.startswith("l_") else part.replace("r_", "right ", 1)
        assert names[index] == same.get(part, spelled)


def test_later_parts_cover_earlier_ones() -> None:
    rng = np.random.default_rng(0)
    parts = {index: rng.random((9, 7)) < 0.3 for index in (18, 1, 13, 4)}
    wanted = np.max([index * mask for index, mask in parts.items()], axis=0)
    np.testing.assert_array_equal(merge(parts), wanted)


def test_enlarging_repeats_pixels() -> None:
    label = np.random.default_rng(0).integers(0, 19, (6, 5), dtype=np.uint8)
    np.testing.assert_array_equal(enlarge(label, 18, 15), label.repeat(3, 0).repeat(3, 1))


def test_the_dataset(prepare: Run, download: Path, tmp_path: Path) -> None:
    assert "3 pairs for training, 1 for testing" in prepare()
    for number, rows in ROWS.items():
        split = "test" if number >= 28000 else "train"
        label = np.asarray(Image.open(tmp_path / "celeba" / split / "labels" / f"{number}.png"))
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(label, np.repeat(rows, 2)[:, None].repeat(2 * SIDE, 1))
        image = tmp_path / "celeba" / split / "images" / f"{number}.jpg"
        assert image.read_bytes() == (download / "CelebA-HQ-img" / f"{number}.jpg").read_bytes()
    for split, stems in {"train": ["0", "1", "2001"], "test": ["28000"]}.items():
        report = scan_dataset(tmp_path / "celeba", get_mode("celeba"), split, progress=False)
        assert not report.fatal
        assert [pair.stem for pair in report.pairs] == stems


def files_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_names_in_capitals_are_read(prepare: Run, download: Path, tmp_path: Path) -> None:
    path = download / "CelebAMask-HQ-mask-anno" / "0" / "00001_cloth.png"
    path.rename(path.with_suffix(".PNG"))
    prepare()
    label = np.asarray(Image.open(tmp_path / "celeba" / "train" / "labels" / "1.png"))
    assert label[::2, 0].tolist() == ROWS[1]


def test_a_share_for_testing_is_drawn_by_the_seed(prepare: Run, tmp_path: Path) -> None:
    for output, seed in (("one", "1"), ("same", "1")):
        assert "2 pairs for training, 2 for testing" in prepare("--test-share", "0.5", "--seed", seed, output=output)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "same")
    drawn = set()
    for seed in range(6):
        prepare("--test-share", "0.5", "--seed", str(seed), output=f"seed{seed}")
        drawn.add(frozenset(path.name for path in (tmp_path / f"seed{seed}" / "test" / "images").iterdir()))
    assert len(drawn) > 1


def test_links_share_the_files(prepare: Run, download: Path, tmp_path: Path) -> None:
    prepare("--link")
    assert os.path.samefile(tmp_path / "celeba/train/images/0.jpg", download / "CelebA-HQ-img" / "0.jpg")


# --- mistakes ----------------------------------------------------------------------------------------------------


def no_annotations(download: Path) -> None:
    (download / "CelebAMask-HQ-mask-anno").rename(download / "masks")


def image_without_masks(download: Path) -> None:
    for path in download.glob("*/1/02001_*.png"):
        path.unlink()


def masks_without_image(download: Path) -> None:
    (download / "CelebA-HQ-img" / "1.jpg").unlink()


def unknown_part(download: Path) -> None:
    save(np.zeros((SIDE, SIDE, 3), np.uint8), download / "CelebAMask-HQ-mask-anno" / "0" / "00001_beard.png")


def part_of_another_name(download: Path) -> None:
    path = download / "CelebAMask-HQ-mask-anno" / "0" / "00001_cloth.png"
    path.rename(path.with_name("00001-cloth.png"))


def part_given_twice(download: Path) -> None:
    save(np.zeros((SIDE, SIDE, 3), np.uint8), download / "CelebAMask-HQ-mask-anno" / "3" / "00001_skin.png")


def parts_of_two_sizes(download: Path) -> None:
    save(np.zeros((8, 8, 3), np.uint8), download / "CelebAMask-HQ-mask-anno" / "0" / "00001_cloth.png")


def image_of_another_shape(download: Path) -> None:
    save(np.zeros((SIDE, 2 * SIDE, 3), np.uint8), download / "CelebA-HQ-img" / "1.jpg")


def damaged_mask(download: Path) -> None:
    path = download / "CelebAMask-HQ-mask-anno" / "0" / "00001_cloth.png"
    path.write_bytes(path.read_bytes()[:60])


def no_test_images(download: Path) -> None:
    for path in (*download.glob("*/28000.jpg"), *download.glob("*/14/*")):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "shown"),
    [
        (no_annotations, ("CelebAMask-HQ-mask-anno", "--data-dir")),
        (image_without_masks, ("CelebA-HQ-img/2001.jpg", "02001_skin.png")),
        (masks_without_image, ("CelebAMask-HQ-mask-anno/0/00001_cloth.png", "1.jpg")),
        (unknown_part, ("CelebAMask-HQ-mask-anno/0/00001_beard.png", "'beard'")),
        (part_of_another_name, ("CelebAMask-HQ-mask-anno/0/00001-cloth.png", "00000_skin.png")),
        (part_given_twice, ("CelebAMask-HQ-mask-anno/3/00001_skin.png", "00001_skin.png")),
        (parts_of_two_sizes, ("CelebAMask-HQ-mask-anno/0/00001_skin.png", "12x12", "8x8")),
        (image_of_another_shape, ("CelebA-HQ-img/1.jpg", "24x12", "12x12")),
        (damaged_mask, ("CelebAMask-HQ-mask-anno/0/00001_cloth.png",)),
        (no_test_images, ("--first-test", "28000", "2001")),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_wrong_downloads(damage: Callable[[Path], None], shown: tuple[str, ...], prepare: Run, download: Path) -> None:
    damage(download)
    (line,) = prepare().splitlines()
    assert line.startswith("error: ")
    check_error(line, shown[0] if shown[0].startswith("--") else download / shown[0], *shown[1:])
    assert not (download.parent / "celeba").exists()


def test_wrong_outputs(prepare: Run, tmp_path: Path) -> None:
    prepare()
    before = files_of(tmp_path / "celeba")
    check_error(prepare(), "--output", tmp_path / "celeba")
    assert files_of(tmp_path / "celeba") == before
    assert "is in" in prepare(output="CelebAMask-HQ/CelebA-HQ-img/new")
