"""Magnetic tiles as published, in small, become the two datasets that the configs read."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import prepare_magnetic_tile
import pytest
from error_lines import check_error
from PIL import Image
from prepare_magnetic_tile import FOLDERS, TEST_IMAGES, Tile, name_tiles, read_names

from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import list_good_images
from guided_diffusion.data.scan.scan import scan_dataset

Run = Callable[..., tuple[object, list[str]]]
HEIGHT, WIDTH = 9, 7
STEMS = ("exp1_num_10", "exp1_num_2", "exp3_num_805")
FREE = (*STEMS, "exp5_num_8")
TILES = {"exp1_num_2": 1, "exp1_num_10": 1, "exp5_num_8": 1, "exp3_num_805": 2}
NAMES = ("background", "blowhole", "break", "crack", "fray", "uneven")
IN_TEST = {f"{name}_exp1_num_2" for name in NAMES[1:]} | {"crack_exp3_num_805", "free_exp1_num_10", "free_exp5_num_8"}


def defect(folder: str, stem: str) -> np.ndarray:
    """Where the published mask of a tile is 255 [H, W]: another place in each."""
    return np.random.default_rng([len(folder), *stem.encode()]).random((HEIGHT, WIDTH)) < 0.3


def save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """Write tiles of 7x9 px as they are published, with what a clone has beside them."""
    root = tmp_path / "tiles"
    for folder, stems in {**dict.fromkeys(FOLDERS, STEMS), "MT_Free": FREE}.items():
        for index, stem in enumerate(stems):
            picture = np.random.default_rng([index, *folder.encode()]).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
            save(picture, root / folder / "Imgs" / f"{stem}.jpg")
            mask = np.zeros((HEIGHT, WIDTH), bool) if folder == "MT_Free" else defect(folder, stem)
            save(np.where(mask, 255, 0).astype(np.uint8), root / folder / "Imgs" / f"{stem}.png")
    (root / ".git").mkdir()
    (root / "README.md").write_text("x")
    (root / "MT_Free" / "Imgs" / "Thumbs.db").write_bytes(b"x")
    return root


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "test_images.txt"
    path.write_text("# The test images\n" + "".join(f"{name}\n" for name in sorted(IN_TEST)))
    return path


@pytest.fixture
def prepare(download: Path, listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the script into `tmp_path / "data"` (or `output`); returns its exit code and the lines that it printed."""

    def run(*options: str, output: str = "data") -> tuple[object, list[str]]:
        arguments = ["--data-dir", str(download), "--output", str(tmp_path / output), "--test-images", str(listed)]
        try:
            prepare_magnetic_tile.main([*arguments, *options])
        except SystemExit as end:
            lines = capsys.readouterr().err.splitlines()
            return end.code, [line for line in lines if line.startswith("error: ")]
        return 0, capsys.readouterr().out.splitlines()

    return run


def files_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_datasets(prepare: Run, download: Path, tmp_path: Path) -> None:
    code, lines = prepare()
    assert code == 0
    assert [line.partition(":")[0] for line in lines] == [
        "9 pairs for training, 6 for testing",
        "2 good images for training, 2 for testing",
    ]
    data = tmp_path / "data"
    expected = {"magnetic_tile/classes.json"}
    for folder, stem in [*((folder, stem) for folder in FOLDERS for stem in STEMS), *(("MT_Free", s) for s in FREE)]:
        kind = folder.removeprefix("MT_").lower()
        good, name = kind == "free", f"{kind}_{stem}"
        inside = f"magnetic_tile{'_good' * good}/{'test' if name in IN_TEST else 'train'}"
        name += f"_tile{TILES[stem]:03d}"
        image = f"{inside}/images/{name}.jpg"
        assert (data / image).read_bytes() == (download / folder / "Imgs" / f"{stem}.jpg").read_bytes()
        expected.add(image)
        if not good:
            with Image.open(data / inside / "masks" / f"{name}.png") as mask:
                assert mask.mode == "L"
                np.testing.assert_array_equal(np.asarray(mask), NAMES.index(kind) * defect(folder, stem))
            expected.add(f"{inside}/masks/{name}.png")
    assert files_of(data).keys() == expected


def test_the_library_reads_them(prepare: Run, tmp_path: Path) -> None:
    prepare()
    for split, count in {"train": 9, "test": 6}.items():
        report = scan_dataset(tmp_path / "data/magnetic_tile", get_mode("multi-class"), split, progress=False)
        assert not report.fatal
        assert len(report.pairs) == count
        assert report.encoding.names == NAMES
        assert len(list_good_images(tmp_path / "data/magnetic_tile_good" / split)) == 2


def test_masks_of_one_bit_are_read(prepare: Run, download: Path, tmp_path: Path) -> None:
    prepare()
    for path in download.glob("MT_C*/Imgs/*.png"):
        Image.open(path).convert("1").save(path)
    assert prepare(output="again")[0] == 0
    assert files_of(tmp_path / "data") == files_of(tmp_path / "again")


def test_gray_edges_of_a_mask_go_to_the_nearer_value(prepare: Run, download: Path, tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[1:4, 2] = (127, 128, 254)
    save(mask, download / "MT_Uneven" / "Imgs" / "exp1_num_10.png")
    assert prepare()[0] == 0
    (written,) = (tmp_path / "data/magnetic_tile").glob("*/masks/uneven_exp1_num_10_tile001.png")
    assert np.array_equal(np.asarray(Image.open(written)), np.where(mask >= 128, 5, 0))


def test_masks_that_show_no_defect_are_told(prepare: Run, download: Path) -> None:
    assert not any("no defect" in line for line in prepare()[1])
    save(np.full((HEIGHT, WIDTH), 127, np.uint8), download / "MT_Uneven" / "Imgs" / "exp1_num_10.png")
    (line,) = (line for line in prepare(output="again")[1] if "no defect" in line)
    assert "uneven_exp1_num_10_tile001" in line


def test_links_share_the_files(prepare: Run, download: Path, tmp_path: Path) -> None:
    prepare("--link")
    image = tmp_path / "data/magnetic_tile/train/images/fray_exp1_num_10_tile001.jpg"
    assert os.path.samefile(image, download / "MT_Fray/Imgs/exp1_num_10.jpg")


@pytest.mark.parametrize(
    ("numbers", "tiles"),
    [
        ((5, 400, 800, 1201), (1, 1, 1, 2)),
        ((85000, 85602, 86064, 86828, 88201, 88602), (1, 2, 2, 2, 2, 3)),
        ((86000, 87000, 88250), (1, 1, 2)),
    ],
)
def test_images_of_close_numbers_are_of_one_tile(numbers: tuple[int, ...], tiles: tuple[int, ...]) -> None:
    images = [Tile(f"crack_exp{index % 6}_num_{number}", "") for index, number in enumerate(numbers)]
    for order in (images, images[::-1]):
        named = name_tiles(order)
        assert {each.name for each in named} == {
            f"{image.name}_tile{tile:03d}" for image, tile in zip(images, tiles, strict=True)
        }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_images.txt", {"blowhole": 50, "break": 32, "crack": 27, "fray": 12, "uneven": 42, "free": 321}),
        ("test_images_mixed.txt", {"blowhole": 23, "break": 17, "crack": 12, "fray": 7, "uneven": 21, "free": 252}),
    ],
)
def test_the_splits_of_the_results(name: str, expected: dict[str, int]) -> None:
    path = TEST_IMAGES.with_name(name)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert len(set(lines)) == len(lines)
    assert Counter(name.partition("_")[0] for name in read_names(path)) == expected


# --- mistakes ----------------------------------------------------------------------------------------------------


def no_folder_of_a_class(download: Path) -> None:
    (download / "MT_Crack").rename(download / "cracks")


def unknown_folder(download: Path) -> None:
    (download / "MT_Dent" / "Imgs").mkdir(parents=True)


def image_without_mask(download: Path) -> None:
    (download / "MT_Break" / "Imgs" / "exp1_num_10.png").unlink()


def mask_without_image(download: Path) -> None:
    (download / "MT_Fray" / "Imgs" / "exp1_num_10.jpg").unlink()


def mask_of_another_size(download: Path) -> None:
    save(np.zeros((HEIGHT, WIDTH + 1), np.uint8), download / "MT_Uneven" / "Imgs" / "exp1_num_10.png")


def damaged_image(download: Path) -> None:
    path = download / "MT_Blowhole" / "Imgs" / "exp3_num_805.jpg"
    path.write_bytes(path.read_bytes()[:200])


def no_good_images(download: Path) -> None:
    for path in download.glob("MT_Free/Imgs/*.jpg"):
        path.unlink()


def incomplete(download: Path) -> None:
    (download / "MT_Free" / "Imgs" / "exp5_num_8.jpg").unlink()


@pytest.mark.parametrize(
    ("damage", "shown"),
    [
        (no_folder_of_a_class, ("MT_Crack/Imgs", "--data-dir", "MT_Free")),
        (unknown_folder, ("MT_Dent", "remove it")),
        (image_without_mask, ("MT_Break/Imgs/exp1_num_10.jpg", "exp1_num_10.png")),
        (mask_without_image, ("MT_Fray/Imgs/exp1_num_10.png", "exp1_num_10.jpg")),
        (mask_of_another_size, ("MT_Uneven/Imgs/exp1_num_10.png", "8x9", "7x9")),
        (damaged_image, ("MT_Blowhole/Imgs/exp3_num_805.jpg",)),
        (no_good_images, ("MT_Free/Imgs", "*.jpg")),
        (incomplete, ("", "free_exp5_num_8", "test_images.txt")),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_wrong_downloads(
    damage: Callable[[Path], None], shown: tuple[str, ...], prepare: Run, download: Path, tmp_path: Path
) -> None:
    damage(download)
    code, (line,) = prepare()
    assert code == 2
    check_error(line, download / shown[0], *shown[1:])
    assert not (tmp_path / "data").exists()


def test_wrong_lists(prepare: Run, listed: Path) -> None:
    listed.write_text("# none\n\n")
    code, (line,) = prepare()
    assert code == 2
    check_error(line, listed)


@pytest.mark.parametrize("filled", ["magnetic_tile", "magnetic_tile_good"])
def test_an_output_that_is_there_is_refused(filled: str, prepare: Run, tmp_path: Path) -> None:
    (tmp_path / "data" / filled).mkdir(parents=True)
    (tmp_path / "data" / filled / "mine.txt").write_text("x")
    code, (line,) = prepare()
    assert code == 2
    check_error(line, "--output", tmp_path / "data" / filled)
    assert files_of(tmp_path / "data").keys() == {f"{filled}/mine.txt"}


def test_other_folders_beside_it_stay(prepare: Run, tmp_path: Path) -> None:
    (tmp_path / "data" / "magnetic_tile").mkdir(parents=True)
    (tmp_path / "data" / "mine.txt").write_text("x")
    assert prepare()[0] == 0
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"magnetic_tile", "magnetic_tile_good", "mine.txt"}


def test_an_output_among_the_published_tiles_is_refused(prepare: Run) -> None:
    code, (line,) = prepare(output="tiles/MT_Free")
    assert code == 2
    assert "is in" in line


def test_nothing_is_left_of_what_could_not_be_written(
    prepare: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    code, (line,) = prepare()
    assert code == 2
    assert "make room" in line
    assert not any((tmp_path / "data").iterdir())
